"""The plan of a push, shown before anything is sent, and its result."""

from dataclasses import dataclass, field
from pathlib import Path

from hf_vbp.files.layout import CARD
from hf_vbp.hub.files import PushFile
from hf_vbp.hub.remote import RepoType


@dataclass(frozen=True)
class PushPlan:
    """Plan of a push.

    Attributes:
        directory: The folder of the checkpoint.
        repo_id: The repository.
        action: ``create`` (a new repository), ``commit``, ``pull_request``, ``nothing`` when the repository already
            holds the same files, or ``unknown`` for a dry run that could not read the repository.
        revision: The branch; None for main.
        private: Whether the repository is, or will be, private; None for the default of the namespace.
        parent: The commit that the push must follow; None while the repository does not exist.
        files: All files of the checkpoint, the card among them.
        changed: Names of those that differ from the files in the repository.
        deleted: Names of files of an earlier model that are deleted.
        remarks: Notes: values left out of the card, local paths in published files, foreign code.
        not_checked: What a dry run without the Hub could not check.
        repo_type: Whether the repository is a model or a Space.
    """

    directory: Path
    repo_id: str
    action: str
    revision: str | None
    private: bool | None
    parent: str | None
    files: tuple[PushFile, ...]
    changed: tuple[str, ...]
    deleted: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    not_checked: tuple[str, ...] = ()
    repo_type: RepoType = "model"

    @property
    def card(self) -> str:
        """The text of the card; empty where there is none."""
        return next((file.read().decode() for file in self.files if file.path == CARD), "")

    def page(self, endpoint: str) -> str:
        """The address of the repository."""
        return f"{endpoint}/{'spaces/' if self.repo_type == 'space' else ''}{self.repo_id}"

    @property
    def lines(self) -> list[str]:
        """The plan as lines of text."""
        where = f"{self.repo_id}" + (f", branch {self.revision}" if self.revision else "")
        where = where if self.repo_type == "model" else f"the Space {where}"
        kind = "" if self.private is None else " (private)" if self.private else " (public)"
        verbs = {
            "create": f"Create {where}{kind} and send",
            "commit": f"Commit to {where}{kind}",
            "pull_request": f"Open a pull request on {where}{kind} with",
            "nothing": f"Nothing to do: {where} already holds the same files",
            "unknown": f"Send to {where}{kind}",
        }
        lines = [f"{verbs[self.action]}:" if self.action != "nothing" else verbs["nothing"]]
        for file in self.files:
            note = "" if file.path in self.changed else "  (unchanged)"
            lines.append(f"  {file.path:32s} {file.size:>12,d} bytes{note}")
        lines += [f"  {path:32s}    (deleted: file of an earlier model)" for path in self.deleted]
        lines += [f"Note: {remark}" for remark in self.remarks]
        return lines + [f"Not checked: {part}" for part in self.not_checked]


@dataclass(frozen=True)
class PushResult:
    """Result of a push.

    Attributes:
        status: ``pushed``, ``pull_request``, ``unchanged``, or ``dry_run``.
        repo_id: The repository.
        url: Page of the pull request or of the repository.
        commit: The commit that holds the checkpoint; None for a dry run of a new repository.
        revision: The revision to load: a branch, ``refs/pr/N``, or None for main.
        plan: The plan.
    """

    status: str
    repo_id: str
    url: str
    commit: str | None
    revision: str | None
    plan: PushPlan = field(repr=False)

    @property
    def sentence(self) -> str:
        """The result in one sentence."""
        size = sum(file.size for file in self.plan.files if file.path in self.plan.changed)
        sent = f"{len(self.plan.changed)} of {len(self.plan.files)} files, {size:,d} bytes"
        checks = "the checks of the folder passed" if self.plan.action == "unknown" else "all checks passed"
        return {
            "pushed": f"Pushed {sent} to {self.url} in one commit ({self.commit}).",
            "pull_request": f"Opened a pull request with {sent}: {self.url}",
            "unchanged": f"Nothing changed: {self.url} already holds the same files ({self.commit}).",
            "dry_run": f"Dry run: {checks}, nothing was sent to {self.url}.",
        }[self.status]
