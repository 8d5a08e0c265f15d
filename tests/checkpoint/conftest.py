from collections.abc import Iterator

import pytest

import hf_vbp


@pytest.fixture(autouse=True)
def _enabled() -> Iterator[None]:
    """Patch transformers before and after each test, as ``import hf_vbp`` does."""
    hf_vbp.patch_transformers()
    yield
    hf_vbp.patch_transformers()


@pytest.fixture(autouse=True, scope="session")
def _own_cache_of_remote_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copy the remote code that tests load to a temporary folder, not to the cache of the user."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("modules")
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder))
        patch.syspath_prepend(str(folder))
        yield
