"""Make one commit, and retry it where that is safe."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_vbp.errors import HubError
from hf_vbp.hub.failures import FAILURES, hub_error, is_transient
from hf_vbp.hub.files import PushFile
from hf_vbp.hub.remote import RepoType, is_conflict, read_remote
from hf_vbp.hub.retries import Retries

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi


@dataclass(frozen=True)
class Commit:
    """A commit to make.

    Attributes:
        repo_id: The repository.
        files: Files to add.
        deleted: Files to delete.
        message: Message of the commit.
        parent: The commit that it must follow.
        revision: The branch.
        create_pr: Whether it opens a pull request instead.
        repo_type: Whether the repository is a model or a Space.
    """

    repo_id: str
    files: Sequence[PushFile]
    deleted: Sequence[str]
    message: str
    parent: str
    revision: str | None
    create_pr: bool
    repo_type: RepoType = "model"

    def send(self, api: "HfApi") -> "CommitInfo":
        """Send it once, with new operations, because the client changes those it gets."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        additions = [CommitOperationAdd(file.path, _source(file)) for file in self.files]
        deletions = [CommitOperationDelete(path) for path in self.deleted]
        return api.create_commit(
            self.repo_id,
            [*deletions, *additions],
            commit_message=self.message,
            revision=self.revision,
            create_pr=self.create_pr,
            parent_commit=self.parent,
            repo_type=self.repo_type,
        )


def _source(file: PushFile) -> str | bytes:
    return file.source if isinstance(file.source, bytes) else str(file.source)


@dataclass(frozen=True)
class Committed:
    """A commit that was made: its id, and the pull request if one was opened."""

    commit: str
    pull_request_url: str | None = None
    pull_request_revision: str | None = None


def commit_with_retries(api: "HfApi", commit: Commit, retries: Retries) -> Committed:
    """Make a commit; after a transient failure, check whether it was made, and retry if not.

    The answer to a commit can be lost after the Hub has made it. A second try then finds this commit as a
    foreign head (412), so the content of the repository decides, not the last answer.

    Raises:
        HubError: It was not made, or (after a lost answer) this is unknown.
    """
    for attempt in range(retries.attempts):
        try:
            info = commit.send(api)
        except FAILURES as error:
            if attempt and is_conflict(error) and (done := _already_made(api, commit, retries)):
                return done
            if not is_transient(error) or attempt + 1 == retries.attempts:
                raise _error(error, commit) from error
            retries.wait(error, attempt)
            if done := _already_made(api, commit, retries):
                return done
        else:
            return Committed(str(info.oid), info.pr_url, info.pr_revision)
    raise HubError(f"Committing to {commit.repo_id} was not tried; expected at least one attempt.")


def _already_made(api: "HfApi", commit: Commit, retries: Retries) -> Committed | None:
    """Return the commit if the Hub has made it; a pull request cannot be found by its content."""
    if commit.create_pr:
        return None
    try:
        remote = read_remote(api, commit.repo_id, commit.revision, retries, commit.repo_type)
    except HubError:
        return None
    there = remote.head is not None and not remote.changed(commit.files)
    return Committed(str(remote.head)) if there and not set(commit.deleted) & set(remote.files) else None


def _error(error: BaseException, commit: Commit) -> HubError:
    failed = hub_error(error, "Committing", commit.repo_id)
    if is_transient(error):
        return HubError(f"{failed} The same command can be repeated: a commit is made completely or not at all.")
    return HubError(f"{failed} Nothing in the repository was changed.")
