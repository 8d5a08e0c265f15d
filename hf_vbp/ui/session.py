"""The state of one visitor. It holds no token and no widget; the page keeps one for each open tab."""

import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp._progress import shown
from hf_vbp.errors import ConfigurationError, DataError
from hf_vbp.ui.settings import MOST_PICTURES
from hf_vbp.ui.worker import Job, Worker

if TYPE_CHECKING:
    from hf_vbp.hub.push_plan import PushResult
    from hf_vbp.ui.study import Pruned, Study


@dataclass(eq=False)
class Session:
    """The work of one visitor.

    Attributes:
        folder: Its files; the name is random, and no other session has it.
        inspected: Description of the chosen model, from its config.
        study: The model with its statistics.
        curve: The measured curve.
        pruned: The pruned checkpoint.
        pushed: The result of the push.
        job: The present or the last long work.
        seen: Whether the page shows the end of ``job``.
        number: Number of pruned checkpoints so far.
    """

    folder: Path
    inspected: dict[str, Any] | None = None
    study: "Study | None" = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    pruned: "Pruned | None" = None
    pushed: "PushResult | None" = None
    job: Job | None = None
    seen: bool = True
    number: int = 0

    @property
    def busy(self) -> bool:
        """Whether long work waits or runs."""
        return self.job is not None and not self.job.ended

    def choose(self, inspected: dict[str, Any]) -> None:
        """Begin with another model; what was made of the one before is forgotten."""
        self.inspected, self.study, self.curve = inspected, None, []
        self.forget_checkpoint()

    def forget_checkpoint(self) -> None:
        """Delete the pruned checkpoint."""
        pruned, self.pruned, self.pushed = self.pruned, None, None
        if pruned is not None:
            shutil.rmtree(pruned.folder.parent, ignore_errors=True)

    def new_folder(self, name: str) -> Path:
        """Return a new folder for a checkpoint, in a folder of its own."""
        self.number += 1
        parent = self.folder / f"pruned-{self.number}"
        parent.mkdir()
        return parent / name

    def check_free(self) -> None:
        """Refuse further long work while some waits or runs.

        Raises:
            ConfigurationError: Some does.
        """
        if self.busy and self.job is not None:
            raise ConfigurationError(f"{self.job.title} has not ended yet. Wait for it, or cancel it.")

    def close(self, worker: Worker) -> None:
        """Cancel the work and delete all files."""
        if self.job is not None:
            worker.cancel(self.job)
        self.study = None
        shutil.rmtree(self.folder, ignore_errors=True)


def keep_pictures(paths: list[str], folder: Path) -> Path:
    """Copy uploaded pictures to a new folder, named by number, so that names of users are not used as paths.

    Args:
        paths: The uploaded files.
        folder: Where the folder is made.

    Raises:
        DataError: There are too few or too many, or one is no picture by its name.
    """
    from hf_vbp.data.scan import EXTENSIONS

    if not 2 <= len(paths) <= MOST_PICTURES:
        raise DataError(f"Upload 2 to {MOST_PICTURES} pictures, got {len(paths)}; some hundreds are usual.")
    # A folder with another kind of file, such as a tar file, would be read in another way.
    other = next((path for path in paths if Path(path).suffix.lower() not in EXTENSIONS), None)
    if other is not None:
        raise DataError(f"{shown(Path(other).name)} is no picture; expected one of {', '.join(sorted(EXTENSIONS))}.")
    # The results name the two innermost folders.
    target = folder / secrets.token_hex(4) / "uploaded" / "pictures"
    target.mkdir(parents=True)
    for number, path in enumerate(paths):
        shutil.copyfile(path, target / f"{number:04d}{Path(path).suffix.lower()}")
    return target
