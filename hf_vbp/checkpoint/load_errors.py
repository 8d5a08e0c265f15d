"""The errors of transformers for a checkpoint that it cannot load."""


def load_errors() -> tuple[type[Exception], ...]:
    """Return the classes of the errors that loading the files of others can raise.

    Config fields of a wrong type or value end in any of the arithmetic and lookup errors, missing optional packages in
    an ImportError, and damaged weights in errors of safetensors, pickle and zipfile.
    """
    import pickle
    import zipfile

    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    return (
        ArithmeticError,
        AssertionError,
        AttributeError,
        EOFError,
        ImportError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        StrictDataclassError,
        SafetensorError,
        pickle.PickleError,
        zipfile.BadZipFile,
    )
