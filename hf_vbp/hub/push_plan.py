"""What a push would do, told before anything is sent."""

from dataclasses import dataclass, field
from pathlib import Path

from hf_vbp.hub.files import PushFile


@dataclass(frozen=True)
class PushPlan:
    """What a push would do.

    Attributes:
        directory: The folder of the checkpoint.
        repo_id: Where to.
        action: ``create`` (a new repository), ``commit``, ``pull_request``, or ``nothing`` when all is there.
        revision: The branch; None for main.
        private: Whether the repository is, or will be, private; None for the default of the namespace.
        parent: The commit it is pinned to; None while the repository is not there.
        files: All files of the checkpoint, the card among them.
        changed: Names of those that differ from what stands there.
        deleted: Names of what an earlier model left there and that goes.
        remarks: What the reader should know: what was left out of the card, local paths in published files.
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

    @property
    def lines(self) -> list[str]:
        """The plan as lines for people."""
        where = f"{self.repo_id}" + (f", branch {self.revision}" if self.revision else "")
        kind = "" if self.private is None else " (private)" if self.private else " (public)"
        verbs = {
            "create": f"Create {where}{kind} and send",
            "commit": f"Commit to {where}{kind}",
            "pull_request": f"Open a pull request on {where}{kind} with",
            "nothing": f"Nothing to do: {where} already holds exactly this",
        }
        lines = [f"{verbs[self.action]}:" if self.action != "nothing" else verbs["nothing"]]
        for file in self.files:
            note = "" if file.path in self.changed else "  (unchanged)"
            lines.append(f"  {file.path:32s} {file.size:>12,d} bytes{note}")
        lines += [f"  {path:32s}    (deleted: left by an earlier model)" for path in self.deleted]
        return lines + [f"Note: {remark}" for remark in self.remarks]


@dataclass(frozen=True)
class PushResult:
    """What a push did.

    Attributes:
        status: ``pushed``, ``pull_request``, ``unchanged``, or ``dry_run``.
        repo_id: Where it lies.
        url: Page to look at: the pull request, or the repository.
        commit: The commit that holds the checkpoint; None for a dry run of a new repository.
        revision: What to load it by: a branch, ``refs/pr/N``, or None for main.
        plan: What was to be done.
    """

    status: str
    repo_id: str
    url: str
    commit: str | None
    revision: str | None
    plan: PushPlan = field(repr=False)

    @property
    def sentence(self) -> str:
        """One sentence for people."""
        size = sum(file.size for file in self.plan.files if file.path in self.plan.changed)
        sent = f"{len(self.plan.changed)} of {len(self.plan.files)} files, {size:,d} bytes"
        return {
            "pushed": f"Pushed {sent} to {self.url} in one commit ({self.commit}).",
            "pull_request": f"Opened a pull request with {sent}: {self.url}",
            "unchanged": f"Nothing changed: {self.url} already holds exactly this ({self.commit}).",
            "dry_run": f"Dry run: nothing was sent to {self.url}.",
        }[self.status]
