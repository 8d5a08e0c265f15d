from collections.abc import Iterator

import pytest

import hf_vbp


@pytest.fixture(autouse=True)
def _enabled() -> Iterator[None]:
    """Every test begins and ends as ``import hf_vbp`` leaves a process."""
    hf_vbp.patch_transformers()
    yield
    hf_vbp.patch_transformers()


@pytest.fixture(autouse=True, scope="session")
def _own_cache_of_remote_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remote code that tests load is copied here, not to the cache of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("modules")
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(folder))
        patch.syspath_prepend(str(folder))
        yield
