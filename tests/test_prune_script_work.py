"""The folder of ``scripts/prune.py --work``: which options the pass receives, and whose results are kept."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from hf_vbp.cli.app import build
from tests.cli.helpers import run

SCRIPT = Path(__file__).parents[1] / "scripts" / "prune.py"
# Those of the step alone, or those that the script gives itself.
OWN = {"--data", "--output", "--overwrite", "--json", "--quiet", "--help"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prune_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Run the script with commands that only write what the real ones write; returns them."""
    monkeypatch.setattr(script, "find_package", lambda: None)

    def call(*argv: str, fails: str = "") -> list[list[str]]:
        ran: list[list[str]] = []

        def command(*words: str) -> None:
            ran.append(list(words))
            if fails and fails in words:
                raise SystemExit(2)
            if "--output" in words and "--check-options" not in words:
                output = Path(words[words.index("--output") + 1])
                if words[0] == "stats":
                    output.write_text("statistics")
                elif words[0] == "prune":
                    output.mkdir()
                    (output / "vbp_results.json").write_text("{}")

        monkeypatch.setattr(script, "hf_vbp", command)
        script.main(argv)
        return ran

    return call


def options_of(*names: str) -> dict[str, Any]:
    command: Any = typer.main.get_command(build())
    for name in names:
        command = command.commands[name]
    return {flag: one for one in command.params for flag in one.opts if flag.startswith("--")}


def test_the_pass_receives_every_option_that_it_has_in_common_with_the_next_step(script: ModuleType) -> None:
    gather = options_of("stats", "gather")
    for step in ("prune", "sweep"):
        assert {*script.VALUES, *script.FLAGS, *script.REPEATED} == {
            flag.removeprefix("--") for flag in gather.keys() & options_of(step).keys() - OWN
        }
    assert set(script.FLAGS) == {name for name in script.FLAGS if gather[f"--{name}"].is_flag}
    assert set(script.REPEATED) == {name for name in script.REPEATED if gather[f"--{name}"].multiple}
    assert not [name for name in script.VALUES if gather[f"--{name}"].is_flag or gather[f"--{name}"].multiple]


def test_options_reach_the_pass_and_the_next_step(start: Callable[..., Any], tmp_path: Path) -> None:
    given = ["--on-bad-image", "skip", "--streaming", "--criterion-option", "a=1", "--criterion-option", "b=2"]
    ran = start("m", "--data", "d", *given, "--ratio", "0.3", "--work", str(tmp_path / "w"))
    check, stats, prune = ran
    assert [words[0] for words in ran] == ["prune", "stats", "prune"]
    assert check[-1] == "--check-options"
    for words in ran:
        assert words[1:4] == ["m", "--data", "d"]
        assert sorted(words[4 : 4 + len(given)]) == sorted(given)
    assert "--ratio" in prune
    assert "--ratio" not in stats


@pytest.mark.parametrize(
    ("again", "difference"),
    [
        (["m", "--data", "d", "--ratio", "0.6"], "--ratio 0.3"),
        (["m", "--data", "e", "--ratio", "0.3"], "--data d"),
        (["n", "--data", "d", "--ratio", "0.3"], "MODEL m"),
        (["m", "--data", "d", "--ratio", "0.3", "--limit", "8"], "without --limit 8"),
        (["m", "--data", "d", "--ratio", "0.3", "--streaming"], "without --streaming"),
        (["m", "--data", "d", "--sweep", "0.3"], "--output pruned, --ratio 0.3"),
    ],
)
def test_the_result_of_another_request_is_not_taken(
    start: Callable[..., Any], tmp_path: Path, again: list[str], difference: str
) -> None:
    work = ["--work", str(tmp_path / "w")]
    start("m", "--data", "d", "--ratio", "0.3", *work)
    with pytest.raises(SystemExit, match="holds another run") as refused:
        start(*again, *work, *([] if "--sweep" in again else ["--push", "alice/small"]))
    assert f"({difference})" in str(refused.value)


def test_the_same_request_is_pushed_and_says_what_it_skips(
    start: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "w"
    start("m", "--data", "d", "--ratio", "0.3", "--limit", "8", "--work", str(work))
    ran = start("m", "--limit=8", "--data", "d", "--work", str(work), "--ratio=0.3", "--push", "alice/small")
    assert [words[0] for words in ran] == ["push"]
    assert f"Already pruned: {work / 'pruned'}" in capsys.readouterr().out


def test_statistics_serve_a_request_that_was_corrected(start: Callable[..., Any], tmp_path: Path) -> None:
    work = ["--work", str(tmp_path / "w")]
    # Options that the check refuses leave nothing that binds the folder.
    with pytest.raises(SystemExit):
        start("m", "--data", "typo", "--ratoi", "0.3", *work, fails="--check-options")
    with pytest.raises(SystemExit):
        start("m", "--data", "d", "--ratio", "0.3", "--eval-data", "typo", *work, fails="--statistics")
    ran = start("m", "--data", "d", "--ratio", "0.3", "--eval-data", "e", *work)
    assert [words[0] for words in ran] == ["prune"]


def test_what_was_there_before_is_not_taken_for_the_result(start: Callable[..., Any], tmp_path: Path) -> None:
    start("m", "--data", "d", "--ratio", "0.3", "--work", str(tmp_path / "w"), "--output", str(tmp_path / "out"))
    with pytest.raises(SystemExit, match=r"out/vbp_results.json belongs to another run"):
        start("m", "--data", "d", "--ratio", "0.6", "--work", str(tmp_path / "v"), "-o", str(tmp_path / "out"))
    (tmp_path / "u").mkdir()
    (tmp_path / "u" / "statistics.safetensors").write_text("statistics")
    with pytest.raises(SystemExit, match=r"statistics.safetensors belongs to another run"):
        start("m", "--data", "d", "--ratio", "0.6", "--work", str(tmp_path / "u"))


def test_a_sweep_is_written_to_a_folder(start: Callable[..., Any], tmp_path: Path) -> None:
    arguments = ["m", "--data", "d", "--sweep", "0.1,0.3", "--eval-data", "e", "--work", str(tmp_path / "w")]
    for steps in (["sweep", "stats", "sweep"], ["sweep"]):
        ran = start(*arguments)
        assert [words[0] for words in ran] == steps
        assert ran[-1][ran[-1].index("--output") + 1] == str(tmp_path / "w" / "sweep")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["prune", "sample", "--data", "sample"], "Give exactly one budget"),
        (["prune", "sample", "--data", "sample", "--ratio", "3"], "3"),
        (["prune", "sample", "--data", "sample", "--ratoi", "0.3"], "No such option"),
        (["sweep", "sample", "--data", "sample", "--eval-data", "sample", "--ratios", "3"], "3"),
    ],
)
def test_wrong_options_are_found_without_running(
    words: list[str], sentence: str, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    ran = run([*words, "--output", output, "--check-options"], capfd, monkeypatch)
    assert ran.code == 2
    assert sentence in ran.err
    good = [word for word in words if word not in ("3", "--ratio", "--ratios", "--ratoi", "0.3")]
    budget = ["--ratio", "0.3"] if words[0] == "prune" else []
    assert run([*good, *budget, "--output", output, "--check-options"], capfd, monkeypatch).code == 0
    assert not output.exists()


def test_the_folder_of_an_installation_is_deleted_at_the_end(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_exit: list[Callable[[], Any]] = []
    monkeypatch.setattr(script, "run", lambda command: None)
    monkeypatch.setattr(
        script.atexit, "register", lambda *given, **options: at_exit.append(lambda: given[0](*given[1:], **options))
    )
    target = script.install("wheel")
    assert target.is_dir()
    for function in at_exit:
        function()
    assert not target.exists()


def test_statistics_of_the_user_contradict_the_folder(start: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as refused:
        start("m", "--data", "d", "--ratio", "0.3", "--work", str(tmp_path), "--statistics=file")
    assert refused.value.code == 2
