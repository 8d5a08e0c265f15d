"""The content of a repository, read before a push and again after it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hf_vbp.errors import HubError
from hf_vbp.files.layout import CARD, INDEX, MODELING_FILE, PLAN, PROCESSORS, RECIPE
from hf_vbp.hub.client import model_info, space_info
from hf_vbp.hub.failures import FAILURES, hub_error, status_of
from hf_vbp.hub.files import PushFile, read_text
from hf_vbp.hub.retries import DEFAULT, Retries, patiently

if TYPE_CHECKING:
    from huggingface_hub import HfApi

RepoType = Literal["model", "space"]

# Files that the Hub itself puts into a new repository.
_BLANK = {"model": frozenset({".gitattributes"}), "space": frozenset({".gitattributes", CARD})}
# Files of an earlier model that would be loaded instead of the new ones, or together with them.
_STALE = {
    "model": re.compile(
        rf"(model(-\d+-of-\d+)?\.safetensors|{re.escape(INDEX)}|pytorch_model(-\d+-of-\d+)?\.bin"
        r"|pytorch_model\.bin\.index\.json|tf_model\.h5|flax_model\.msgpack|"
        + "|".join(map(re.escape, (MODELING_FILE, PLAN, RECIPE, *PROCESSORS)))
        + r"|(onnx|openvino|torch_export|executorch)/[\w.-]+\.(onnx|onnx_data|xml|bin|pt2|pte))"
    ),
    # The models of an earlier page, which are large.
    "space": re.compile(r"(dense/)?onnx/model(_quantized)?\.onnx"),
}


@dataclass(frozen=True)
class RemoteFile:
    """One file in the repository: its size, its sha256 if it is stored in LFS or Xet, and its git object."""

    size: int
    sha256: str | None
    git_oid: str

    def is_same(self, file: PushFile) -> bool:
        """Return whether ``file`` has the same content."""
        if self.sha256 is not None:
            return self.sha256 == file.sha256 and self.size == file.size
        return self.git_oid == file.git_oid


@dataclass(frozen=True)
class Remote:
    """A repository at a revision.

    Attributes:
        exists: Whether the repository exists.
        private: Whether it is private.
        head: Commit that the revision points to.
        has_revision: Whether the branch exists; a new one starts at the head of main.
        files: Path to file.
        unread: Why it could not be read, for a dry run; None where it was read.
        repo_type: Whether it is a model or a Space.
    """

    exists: bool
    private: bool = False
    head: str | None = None
    has_revision: bool = True
    files: dict[str, RemoteFile] = field(default_factory=dict)
    unread: str | None = None
    repo_type: RepoType = "model"

    @property
    def is_blank(self) -> bool:
        """Whether it has no files of a user."""
        return set(self.files) <= _BLANK[self.repo_type]

    def changed(self, files: Iterable[PushFile]) -> list[PushFile]:
        """Return the files that differ from those in the repository, or are missing there."""
        return [file for file in files if file.path not in self.files or not self.files[file.path].is_same(file)]

    def stale(self, files: Iterable[PushFile]) -> list[str]:
        """Return the files of an earlier model that must be deleted."""
        names = {file.path for file in files}
        return sorted(path for path in self.files if _STALE[self.repo_type].fullmatch(path) and path not in names)


def read_files(api: "HfApi", repo_id: str, revision: str, repo_type: RepoType = "model") -> dict[str, RemoteFile]:
    """Return the files of a revision."""
    from huggingface_hub.hf_api import RepoFile

    files = {}
    for entry in api.list_repo_tree(repo_id, recursive=True, revision=revision, repo_type=repo_type):
        if isinstance(entry, RepoFile):
            sha256 = entry.lfs.sha256 if entry.lfs is not None else None
            files[entry.path] = RemoteFile(entry.size, sha256, entry.blob_id)
    return files


def read_remote(
    api: "HfApi",
    repo_id: str,
    revision: str | None = None,
    retries: Retries = DEFAULT,
    repo_type: RepoType = "model",
) -> Remote:
    """Read a repository; one that does not exist or must not be seen gives ``exists=False``.

    Raises:
        HubError: The Hub refused or did not answer.
    """
    read_info = model_info if repo_type == "model" else space_info

    def read() -> Remote:
        has_revision = True
        try:
            info = read_info(api, repo_id, revision)
        except RevisionNotFoundError:
            has_revision, info = False, read_info(api, repo_id)
        head, private = str(info.sha), bool(info.private)
        files = read_files(api, repo_id, head, repo_type)
        return Remote(True, private, head, has_revision, files, repo_type=repo_type)

    try:
        return patiently(read, retries)
    except GatedRepoError as error:
        raise hub_error(error, "Reading the repository", repo_id) from error
    except RepositoryNotFoundError as error:
        if status_of(error) == 401 and "credentials" in str(error).lower():
            raise hub_error(error, "Reading the repository", repo_id) from error
        return Remote(exists=False, repo_type=repo_type)
    except FAILURES as error:
        raise hub_error(error, "Reading the repository", repo_id) from error


def read_card(api: "HfApi", repo_id: str, remote: Remote, retries: Retries = DEFAULT) -> str | None:
    """Return the card in the repository; None when there is none."""
    if CARD not in remote.files or remote.head is None:
        return None
    try:
        path = patiently(lambda: api.hf_hub_download(repo_id, CARD, revision=remote.head), retries)
    except RemoteEntryNotFoundError:
        return None
    except FAILURES as error:
        raise hub_error(error, "Reading the present card", repo_id) from error
    return read_text(Path(path))


def refuse_content(remote: Remote, repo_id: str) -> HubError:
    """Return the refusal to overwrite, with the names of the present files."""
    names = sorted(set(remote.files) - _BLANK[remote.repo_type])
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    ways = "Overwrite it (--overwrite), or choose another name."
    if remote.repo_type == "model":
        ways = "Overwrite it (--overwrite), open a pull request (--create-pr), or push to a branch (--revision NAME)."
    return HubError(f"{repo_id} already holds {shown}; nothing was sent. {ways}")


def is_conflict(error: BaseException) -> bool:
    """Return whether the Hub refused because the parent is no longer the head."""
    return isinstance(error, HfHubHTTPError) and status_of(error) == 412
