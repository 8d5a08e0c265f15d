"""Name the classes of a model in its config."""

from typing import Any

from hf_vbp.data.label_files import ModelLabels, read_model_labels
from hf_vbp.data.labels import are_placeholders


def name_classes(config: Any, names: ModelLabels) -> bool:
    """Name the classes of a model whose config has placeholders (``LABEL_0``), in place.

    Names that the config has already are kept: others are given to match classes of a data set.

    Args:
        config: The config of a classifier.
        names: Its class names in order of id, as for :func:`hf_vbp.load_images`.

    Returns:
        Whether the config had placeholders and has the names now.

    Raises:
        LabelError: The file cannot be read, or the names are not those of so many classes.
    """
    own = dict(config.id2label)
    found = read_model_labels(names, len(own))
    if not are_placeholders(own.values()):
        return False
    config.id2label = found
    config.label2id = {name: index for index, name in found.items()}
    return True
