"""What the buttons of the page do, without the page: each checks, then works at once or queues a job."""

import shlex
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp.errors import ConfigurationError, DataError
from hf_vbp.ui.inspector import Inspector
from hf_vbp.ui.memory import check_memory
from hf_vbp.ui.session import Session, keep_pictures
from hf_vbp.ui.settings import Settings
from hf_vbp.ui.worker import Job, Worker

if TYPE_CHECKING:
    from hf_vbp.config.vbp_config import VBPConfig
    from hf_vbp.hub.jobs import HubJob
    from hf_vbp.pruning.preview import Preview
    from hf_vbp.ui.study import Pruned, Study
    from hf_vbp.workflow.requests import DataRequest

BUNDLED, UPLOADED, HUB = "Bundled images", "Uploaded pictures", "Data set on the Hub"
IMAGES = (BUNDLED, UPLOADED, HUB)
MERGING = ("macs", "latency")
"""Budgets that merged tokens count for."""


@dataclass(frozen=True)
class Images:
    """Calibration images as chosen on the page.

    Attributes:
        kind: One of :data:`IMAGES`.
        uploads: The uploaded files.
        name: Id of the data set.
        split: Its split; empty for the one that fits.
        limit: Use at most this many.
    """

    kind: str
    uploads: tuple[str, ...] = ()
    name: str = ""
    split: str = ""
    limit: int = 128


@dataclass(frozen=True)
class Choice:
    """The budget and levers as chosen on the page.

    Attributes:
        kind: ``ratio``, ``parameters``, ``macs`` or ``latency``.
        share: Percentage to remove for a ratio, to keep otherwise.
        tokens: Whether tokens may be merged.
        same_width: Whether every layer gets the same width.
    """

    kind: str = "ratio"
    share: float = 30
    tokens: bool = False
    same_width: bool = False

    @property
    def asked(self) -> str:
        """The budget in words."""
        words = {
            "ratio": "of the hidden neurons removed",
            "parameters": "of the parameters kept",
            "macs": "of the MACs kept",
            "latency": "of the latency kept",
        }
        return f"{self.share:g} % {words[self.kind]}"

    def config(self) -> "VBPConfig":
        """Return the configuration."""
        from hf_vbp.config.vbp_config import VBPConfig, field_of_budget

        chooses = self.tokens and self.kind in MERGING
        # The widths of the preview are exact, so those of a latency are not rounded to a multiple measured later.
        return VBPConfig(
            round_to=1,
            scope="layer" if self.same_width else "global",
            levers=("mlp", "tokens") if chooses else ("mlp",),
            **{field_of_budget(self.kind): round(self.share / 100, 4)},  # type: ignore[arg-type]
        )


class Actions:
    """The buttons of one running page; sessions are passed in, so that none is shared.

    Args:
        settings: The limits.
        root: Folder of all files of the page, deleted at its end.
    """

    def __init__(self, settings: Settings, root: Path) -> None:
        self.settings, self.root, self.worker, self.inspector = settings, root, Worker(), Inspector()

    def open(self) -> Session:
        """Return the session of a new visitor, in a folder with a random name."""
        return Session(Path(tempfile.mkdtemp(prefix="session-", dir=self.root)))

    def inspect(self, session: Session, name: str, token: str | None) -> None:
        """Inspect a model from its config, and make it the model of the session."""
        name = self.settings.check_model(name)
        session.check_free()
        cache = None if self.settings.local else session.folder / "hub"
        session.choose(self.inspector.inspect(name, self.settings.token(token), cache))

    def search(self, words: str, token: str | None) -> list[str]:
        """Return the ids of at most 20 models of the Hub that match words, the most downloaded first."""
        from hf_vbp.hub.client import make_api
        from hf_vbp.hub.failures import FAILURES, hub_error

        try:
            api = make_api(self.settings.token(token))
            return [one.id for one in api.list_models(search=words.strip(), sort="downloads", limit=20)]
        except FAILURES as error:
            raise hub_error(error, "Searching the Hub", words) from error

    def gather(self, session: Session, images: Images, token: str | None) -> None:
        """Queue the statistics of the model."""
        found = _inspected(session)
        session.check_free()
        check_memory(found, self.settings, self.job_line(session, images, Choice()))
        request = self._request(session, images)
        access = self.settings.token(token)
        cache = None if self.settings.local else session.folder / "hub"

        def work(job: Job) -> None:
            from hf_vbp.ui.study import make_study
            from hf_vbp.workflow.loading import Loading

            made = make_study(found["model"], request, Loading(token=access, cache_dir=cache), job)
            # Only now: work that fails or is cancelled changes nothing.
            session.study, session.curve = made, []
            session.forget_checkpoint()

        self._submit(session, "Statistics", work)

    def preview(self, session: Session, choice: Choice) -> "Preview":
        """Return the preview of the plan for a choice."""
        return study_of(session).preview(choice.config())

    def measure(self, session: Session, choice: Choice) -> None:
        """Queue the measurement of merged tokens and latency."""
        study = study_of(session)

        def work(job: Job) -> None:
            from hf_vbp.ui.study import measure

            session.study = measure(study, choice.config(), job)

        self._submit(session, "Measurements", work)

    def curve(self, session: Session, choice: Choice) -> None:
        """Queue the measured curve."""
        study = study_of(session)

        def work(job: Job) -> None:
            from hf_vbp.ui.study import measure_curve

            session.curve = measure_curve(study, choice.config(), job)

        self._submit(session, "Curve", work)

    def prune(self, session: Session, choice: Choice) -> None:
        """Queue the pruning, with the merged tokens of the preview."""
        study, config = study_of(session), choice.config()
        found = study.preview(config)
        if "tokens" in config.used_levers:
            config = replace(config, merge_tokens=found.number, levers=None)
        name = f"{study.loaded.source.rstrip('/').rpartition('/')[2]}-pruned"
        session.check_free()
        folder = session.new_folder(name)

        def work(job: Job) -> None:
            from hf_vbp.ui.study import prune_study

            try:
                made = prune_study(study, config, folder, job)
            except BaseException:
                shutil.rmtree(folder.parent, ignore_errors=True)
                raise
            session.forget_checkpoint()
            session.pruned = made

        self._submit(session, "Pruning", work)

    def card(self, session: Session, name: str, private: bool, token: str | None) -> str:
        """Return the model card as it would be sent, with the list of files; nothing is sent."""
        from hf_vbp.hub.push import push_to_hub

        access = self._writes(token)
        options: dict[str, Any] = {"token": access, "private": private, "dry_run": True, "check_load": False}
        plan = push_to_hub(_pruned(session).folder, _named(name), **options).plan
        return "\n".join([plan.card, "", "<!-- What would be sent:", *plan.lines, "-->"])

    def push(self, session: Session, name: str, private: bool, token: str | None) -> None:
        """Queue the push to the namespace of the user."""
        folder, access, repo_id = _pruned(session).folder, self._writes(token), _named(name)

        def work(job: Job) -> None:
            from hf_vbp.hub.push import push_to_hub

            job.say(f"Sending to {repo_id}")
            # The receipt was made from this folder a moment ago.
            session.pushed = push_to_hub(folder, repo_id, token=access, private=private, check_load=False)

        self._submit(session, "Push", work)

    def send_job(
        self, session: Session, images: Images, choice: Choice, name: str, flavor: str, token: str | None
    ) -> "HubJob":
        """Start the same as a Job of the user."""
        from hf_vbp.hub.jobs import start_job

        arguments = _arguments(self._sent_model(session), self._sent_data(images), images, choice, _named(name))
        access, environment = self._writes(token), self._environment(flavor)
        return start_job(self.settings.script, arguments, flavor=flavor, token=access, environment=environment)

    def job_state(self, job_id: str, token: str | None) -> "HubJob":
        """Return the state of a Job of the user."""
        from hf_vbp.hub.jobs import read_job

        return read_job(job_id.strip(), self._writes(token))

    def end_job(self, job_id: str, token: str | None) -> "HubJob":
        """Cancel a Job of the user."""
        from hf_vbp.hub.jobs import cancel_job

        return cancel_job(job_id.strip(), self._writes(token))

    def job_line(
        self, session: Session, images: Images, choice: Choice, name: str = "", flavor: str = "cpu-upgrade"
    ) -> str:
        """Return the command that runs the same as a Job; capitals stand for what a Job cannot read."""
        model = _or("MODEL", lambda: self._sent_model(session))
        data = _or("DATASET", lambda: self._sent_data(images))
        arguments = _arguments(model, data, images, choice, name.strip() or "OWNER/NAME")
        options = ["--flavor", flavor, "--secrets", "HF_TOKEN"]
        for variable, value in self._environment(flavor).items():
            options += ["--env", f"{variable}={value}"]
        return shlex.join(["hf", "jobs", "uv", "run", *options, self.settings.script, *arguments])

    def cancel(self, session: Session) -> None:
        """Cancel the long work of the session."""
        if session.job is not None:
            self.worker.cancel(session.job)

    def close(self) -> None:
        """End the processes of the page and delete its files."""
        self.inspector.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def _submit(self, session: Session, title: str, work: Callable[[Job], Any]) -> None:
        session.check_free()
        session.job, session.seen = self.worker.submit(title, work), False

    def _writes(self, token: str | None) -> str | None:
        found = self.settings.token(token)
        if found is False:
            where = "Log in with the button at the top of the page" if self.settings.space else "Download it instead"
            raise ConfigurationError(f"Publishing and Jobs need the account of a user. {where}.")
        return found if isinstance(found, str) else None

    def _request(self, session: Session, images: Images) -> "DataRequest":
        from hf_vbp.workflow.requests import DataRequest

        if images.kind == UPLOADED:
            source = str(keep_pictures(list(images.uploads), session.folder))
            return DataRequest(source, limit=images.limit, on_bad_image="skip")
        if images.kind == BUNDLED:
            return DataRequest("sample", limit=images.limit)
        name = self.settings.check_data(images.name)
        # A stream leaves nothing on the disk that another user of the server could read.
        streams = not self.settings.local
        split = images.split.strip() or None
        return DataRequest(name, split=split, limit=images.limit, streaming=streams, on_bad_image="skip")

    def _environment(self, flavor: str) -> dict[str, str]:
        environment = {"HF_VBP_SOURCE": self.settings.source}
        if not flavor.startswith("cpu"):
            # The header of the script asks for the CPU build of torch by a source, which this leaves out.
            environment["UV_NO_SOURCES"] = "1"
        return environment

    def _sent_model(self, session: Session) -> str:
        return self.settings.check_sent(_inspected(session)["model"])

    def _sent_data(self, images: Images) -> str:
        if images.kind == UPLOADED:
            raise ConfigurationError("Uploaded pictures are not sent to a Job. Choose a data set of the Hub.")
        return "sample" if images.kind == BUNDLED else self.settings.check_sent(self.settings.check_data(images.name))


def _arguments(model: str, data: str, images: Images, choice: Choice, name: str) -> list[str]:
    from hf_vbp.ui.study import budget_flags

    split = images.split.strip() if images.kind == HUB else ""
    options = [*(["--split", split] if split else []), "--limit", str(images.limit)]
    if images.kind == HUB:
        # As for statistics on the page.
        options += ["--on-bad-image", "skip"]
    return [model, "--data", data, *options, *budget_flags(choice.config()), "--push", name]


def _or(placeholder: str, name: Callable[[], str]) -> str:
    try:
        return name()
    except (ConfigurationError, DataError):
        return placeholder


def _inspected(session: Session) -> dict[str, Any]:
    if session.inspected is None:
        raise ConfigurationError("There is no model yet: inspect one first.")
    return session.inspected


def study_of(session: Session) -> "Study":
    """Return the statistics of a session.

    Raises:
        ConfigurationError: There are none yet.
    """
    if session.study is None:
        raise ConfigurationError("There are no statistics yet: gather them first.")
    return session.study


def _pruned(session: Session) -> "Pruned":
    if session.pruned is None:
        raise ConfigurationError("There is no pruned model yet: prune first.")
    return session.pruned


def _named(name: str) -> str:
    name = name.strip()
    if not name:
        raise ConfigurationError("The repository has no name: give one, such as my-model-pruned.")
    return name
