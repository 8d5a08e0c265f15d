"""The client of the Hub, and full names of repositories."""

from typing import TYPE_CHECKING

from hf_vbp._progress import one_line
from hf_vbp._version import __version__
from hf_vbp.errors import HubError
from hf_vbp.hub.retries import DEFAULT, repeat

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo, SpaceInfo


def make_api(token: str | bool | None = None) -> "HfApi":
    """Return the client. The client finds the token; this package neither reads nor stores one."""
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="hf_vbp", library_version=__version__)


def full_repo_id(api: "HfApi", repo_id: str) -> str:
    """Return ``repo_id`` with its namespace, which is requested from the Hub where it is missing.

    Raises:
        HubError: There is no token, or the name is not valid.
    """
    from huggingface_hub.utils._validators import validate_repo_id

    repeat(lambda: validate_repo_id(repo_id), "Checking the name", repo_id, DEFAULT)
    if repo_id.endswith("/commit"):
        raise HubError(f"{repo_id}: clients of the Hub cannot use a repository named 'commit'. Choose another name.")
    if "/" in repo_id:
        return repo_id
    name = repeat(lambda: api.whoami()["name"], "Reading the name of the account", repo_id, DEFAULT)
    return f"{name}/{repo_id}"


def model_info(api: "HfApi", repo_id: str, revision: str | None = None) -> "ModelInfo":
    """Return the description of a repository.

    Raises:
        HubError: The client cannot read the metadata of its card.
    """
    try:
        return api.model_info(repo_id, revision=revision)
    except TypeError as error:
        raise _unreadable_card(repo_id, error) from error


def space_info(api: "HfApi", repo_id: str, revision: str | None = None) -> "SpaceInfo":
    """Return the description of a Space.

    Raises:
        HubError: The client cannot read the metadata of its README.md.
    """
    try:
        return api.space_info(repo_id, revision=revision)
    except TypeError as error:
        raise _unreadable_card(repo_id, error) from error


def _unreadable_card(repo_id: str, error: TypeError) -> HubError:
    # The client passes the metadata of the card on as keyword arguments, whatever their names are.
    return HubError(
        f"The metadata of the README.md of {repo_id} cannot be read by huggingface_hub ({one_line(error)}). "
        "Correct them on the page of the repository."
    )
