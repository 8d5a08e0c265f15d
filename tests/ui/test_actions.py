"""What the buttons do, without a browser: checks before work, and the commands that reproduce a choice."""

import shlex
import threading
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_vbp.cli.app import build
from hf_vbp.errors import ConfigurationError, DataError
from hf_vbp.ui.actions import BUNDLED, HUB, UPLOADED, Actions, Choice, Images
from hf_vbp.ui.session import Session
from hf_vbp.ui.settings import Settings
from hf_vbp.ui.study import Pruned, command_of
from hf_vbp.workflow.requests import DataRequest

FOUND = {"model": "owner/name", "memory": 10, "download": 20, "reachable": {}}
KINDS = ("ratio", "parameters", "macs", "latency")


@pytest.fixture
def actions(tmp_path: Path) -> Actions:
    return Actions(Settings(memory=1000), tmp_path)


@pytest.fixture
def session(actions: Actions) -> Session:
    opened = actions.open()
    opened.inspected = dict(FOUND)
    return opened


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [False, True])
def test_measurements_serve_every_budget(kind: str, tokens: bool) -> None:
    # They are kept by method: one that differed by budget would never be found again.
    assert Choice(kind, 70, tokens).config().method == Choice("ratio", 30).config().method


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("same_width", [False, True])
def test_the_command_line_knows_the_options_of_a_choice(kind: str, same_width: bool) -> None:
    import typer

    config = Choice(kind, 70, tokens=True, same_width=same_width).config()
    words = shlex.split(command_of("owner/name", DataRequest("owner/data", limit=8), config, "out"))
    assert words[:3] == ["hf-vbp", "prune", "owner/name"]
    command: Any = typer.main.get_command(build())
    known = {flag for parameter in command.commands["prune"].params for flag in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
    assert config.budget.asked == 0.7
    assert "0.7" in words


def test_too_large_models_are_refused_with_a_line_that_runs_them(actions: Actions, session: Session) -> None:
    session.inspected = {**FOUND, "download": 5000}
    with pytest.raises(ConfigurationError, match=r"hf jobs uv run .* owner/name --data owner/data .*--push"):
        actions.gather(session, Images(HUB, name="owner/data"), None)
    with pytest.raises(ConfigurationError, match="--data DATASET"):
        actions.gather(session, Images(UPLOADED, ("a.png", "b.png")), None)
    assert session.job is None


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda actions, session: actions.gather(Session(session.folder), Images(BUNDLED), None), "inspect one first"),
        (lambda actions, session: actions.measure(session, Choice()), "gather them first"),
        (lambda actions, session: actions.prune(session, Choice()), "gather them first"),
        (lambda actions, session: actions.push(session, "name", True, None), "prune first"),
        (lambda actions, session: actions.gather(session, Images(HUB), None), "There are no images"),
        (lambda actions, session: actions.gather(session, Images(UPLOADED, ("a.png",)), None), "Upload 2 to 500"),
        (
            lambda actions, session: actions.gather(session, Images(UPLOADED, ("a.png", "shards.tar")), None),
            "'shards.tar' is no picture",
        ),
        (
            lambda actions, session: actions.send_job(
                session, Images(UPLOADED, ("a.png", "b.png")), Choice(), "name", "cpu-basic", None
            ),
            "not sent to a Job",
        ),
        (
            lambda actions, session: actions.send_job(session, Images(BUNDLED), Choice(), " ", "cpu-basic", None),
            "has no name",
        ),
    ],
)
def test_steps_out_of_order_are_sentences(actions: Actions, session: Session, act: Any, message: str) -> None:
    with pytest.raises((ConfigurationError, DataError), match=message):
        act(actions, session)


@pytest.mark.parametrize("flavor", ["cpu-upgrade", "t4-small"])
def test_the_line_of_a_job_is_what_is_sent(
    actions: Actions, session: Session, flavor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, Any] = {}
    monkeypatch.setattr(
        "hf_vbp.hub.jobs.start_job", lambda script, arguments, **more: sent.update(more, command=[script, *arguments])
    )
    images, choice = Images(HUB, name="owner/data", split="validation", limit=64), Choice("macs", 70, tokens=True)
    actions.send_job(session, images, choice, "alice/small", flavor, "hf_token")
    words = shlex.split(actions.job_line(session, images, choice, "alice/small", flavor))
    options, command = words[4 : -len(sent["command"])], words[-len(sent["command"]) :]
    assert command == sent["command"]
    assert command[command.index("--split") + 1] == "validation"
    assert options[options.index("--flavor") + 1] == flavor
    given = [value for name, value in pairwise(options) if name == "--env"]
    assert given == [f"{name}={value}" for name, value in sent["environment"].items()]
    assert ("UV_NO_SOURCES=1" in given) == (flavor == "t4-small")


def test_files_of_this_machine_are_not_named_to_a_job(
    actions: Actions, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "owner" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    job = (Choice(), "alice/small", "cpu-basic", "hf_token")
    for name, sentence in (("owner/data", "folder of this machine"), ("./shards-{0..9}.tar", "not an id on the Hub")):
        with pytest.raises(ConfigurationError, match=sentence):
            actions.send_job(session, Images(HUB, name=name), *job)
        assert "--data DATASET" in actions.job_line(session, Images(HUB, name=name), Choice())
    session.inspected = {**FOUND, "model": str(tmp_path)}
    with pytest.raises(ConfigurationError, match="folder of this machine; a Job reads models and data sets of"):
        actions.send_job(session, Images(BUNDLED), *job)
    assert " MODEL --data sample" in actions.job_line(session, Images(BUNDLED), Choice())


def test_work_that_was_cancelled_changes_nothing(
    actions: Actions, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancelled(*given: Any) -> None:
        given[-1].cancel()
        given[-1].check()

    monkeypatch.setattr("hf_vbp.ui.study.make_study", cancelled)
    monkeypatch.setattr("hf_vbp.ui.study.prune_study", cancelled)
    folder = session.new_folder("model")
    folder.mkdir()
    study = SimpleNamespace(loaded=SimpleNamespace(source="sample"), preview=lambda config: None)
    held: Any = [study, [{"ratio": 0.1}]]
    held.append(Pruned(folder, folder.with_suffix(".zip"), {}))
    session.study, session.curve, session.pruned = held
    for start in (
        lambda: actions.gather(session, Images(BUNDLED), None),
        lambda: actions.prune(session, Choice()),
    ):
        start()
        job = session.job
        assert job is not None
        while not job.ended:
            threading.Event().wait(0.005)
        assert (job.state, job.error) == ("cancelled", "Cancelled; nothing was changed.")
        assert [session.study, session.curve, session.pruned] == held
    # The earlier checkpoint can still be pushed, and the begun one is deleted.
    assert [path.name for path in session.folder.glob("pruned-*")] == [folder.parent.name]


def test_names_of_uploads_are_not_used_as_paths(actions: Actions, session: Session, tmp_path: Path) -> None:
    from hf_vbp.ui.session import keep_pictures

    uploads = [tmp_path / "one" / "a..png", tmp_path / "two" / "a..png"]
    for number, path in enumerate(uploads):
        path.parent.mkdir()
        path.write_bytes(bytes([number]))
    kept = keep_pictures([str(path) for path in uploads], session.folder)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == {"0000.png": b"\0", "0001.png": b"\1"}
    assert session.folder in kept.parents


def test_the_end_of_a_page_deletes_its_files(actions: Actions, session: Session) -> None:
    (session.folder / "file").write_text("x")
    session.close(actions.worker)
    assert not session.folder.exists()
    other = actions.open()
    actions.close()
    assert not other.folder.exists()
