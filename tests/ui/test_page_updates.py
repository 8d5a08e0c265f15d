"""What the page shows after a button, without a browser: the functions of its events, called as gradio does."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hf_vbp.ui import views
from hf_vbp.ui.actions import Actions, Choice
from hf_vbp.ui.session import Session
from hf_vbp.ui.settings import Settings
from hf_vbp.ui.study import Study, make_study
from hf_vbp.ui.worker import Job
from hf_vbp.workflow.loading import Loading
from hf_vbp.workflow.requests import DataRequest

if TYPE_CHECKING:
    from hf_vbp.ui.page import Page

# Gradio opens event loops that it never closes.
pytestmark = [
    pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
FOUND = {
    "model": "owner/name",
    "architecture": "ViTForImageClassification",
    "memory": 10,
    "download": 20,
    "merging": None,
    "reachable": {"ratio": 0.9, "parameters": 0.5, "macs": 0.5},
}


@pytest.fixture(scope="module")
def study() -> Study:
    return make_study("sample", DataRequest("sample", limit=8), Loading(), Job("Statistics", None))


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Page"]:
    from hf_vbp.ui.page import Page

    made = Page(Actions(Settings(), tmp_path))
    monkeypatch.setattr("hf_vbp.ui.page.views.inspected", lambda found: found["model"])
    monkeypatch.setattr(made.actions.inspector, "inspect", lambda name, *rest: {**FOUND, "model": name})
    yield made
    made.actions.close()
    asyncio.set_event_loop(None)
    gc.collect()


@pytest.fixture
def session(page: "Page") -> Session:
    return page.actions.open()


def event(page: "Page", widget: str, kind: str = "click") -> Callable[..., dict[str, Any]]:
    """Return the function of an event; it gives what the widgets are changed to, by their name in the page."""
    target = (getattr(page.layout, widget)._id, kind)
    # The first one: others refresh what is shown.
    found = next(one for one in page.blocks.fns.values() if target in one.targets)

    def call(*values: Any) -> dict[str, Any]:
        return {one.elem_id: value for one, value in zip(found.outputs, found.fn(*values), strict=True)}

    return call


def value(update: Any) -> Any:
    return update.get("value") if isinstance(update, dict) else update


def test_another_model_begins_with_the_form_that_its_slider_belongs_to(
    page: "Page", session: Session, study: Study
) -> None:
    session.choose({**FOUND, "model": "sample"})
    session.study = study
    shown = event(page, "inspect")(session, "owner/other")
    assert [value(shown[name]) for name in ("kind", "tokens", "same-width")] == ["ratio", False, False]
    assert shown["tokens"]["interactive"] is False
    assert shown["share"]["label"] == "Percent of the hidden neurons to remove"
    # The bars were those of the first model.
    assert shown["figures"] == ""
    assert shown["widths"] is None


def test_a_refused_budget_shows_no_bars(page: "Page", session: Session, study: Study) -> None:
    session.study = study
    found = page._move(session, "macs", 80, False, False)
    assert "MACs kept" in found[0]
    assert len(found[1]) > 0
    error, bars = page._move(session, "latency", 80, False, False)
    assert "was not measured" in error
    assert bars is None


def test_the_slider_stays_within_what_a_model_allows(page: "Page", session: Session) -> None:
    session.choose({**FOUND, "reachable": {**FOUND["reachable"], "ratio": 0.2}})
    assert page._kind(session, "ratio")[0]["value"] == 20


@pytest.mark.parametrize(
    ("kind", "merges"), [("ratio", False), ("parameters", False), ("macs", True), ("latency", True)]
)
def test_merging_is_offered_where_it_counts(page: "Page", session: Session, kind: str, merges: bool) -> None:
    session.choose(dict(FOUND))
    assert event(page, "kind", "change")(session, kind)["tokens"]["interactive"] is merges
    session.choose({**FOUND, "merging": "its blocks are not of equal size"})
    assert event(page, "kind", "change")(session, kind)["tokens"]["interactive"] is False


def test_merging_without_a_measurement_says_what_to_press(page: "Page", session: Session, study: Study) -> None:
    session.study = study
    assert "press “Measure latency and merged tokens”" in page._move(session, "macs", 80, True, False)[0]
    for kind, tokens in (("macs", False), ("ratio", True)):
        assert "not measured yet" not in page._move(session, kind, 80, tokens, False)[0]


def test_the_line_of_a_job_follows_every_choice(page: "Page", session: Session) -> None:
    session.choose(dict(FOUND))
    at = page.layout
    (line,) = (one for one in page.blocks.fns.values() if at.job_line in one.outputs)
    assert {widget._id for widget in (at.model, *at.job)} == {target for target, kind in line.targets}
    images = ["Data set on the Hub", None, "owner/data", "test", 64]
    shown = line.fn(session, "alice/small", "t4-small", "macs", 70, False, True, *images)[-1]
    for part in ("t4-small", "owner/data --split test --limit 64", "--target-macs 0.7", "layer", "--push alice/small"):
        assert part in shown
    # The end of a job leaves the name that the visitor chose.
    assert event(page, "timer", "tick")(session, "ratio", 30, False, False).keys().isdisjoint({"job-repo", "job-line"})


def test_an_unknown_error_is_a_sentence(
    page: "Page", session: Session, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*given: Any) -> None:
        raise OSError("File name too long")

    monkeypatch.setattr(page.actions.inspector, "inspect", fail)
    shown = event(page, "inspect")(session, "owner/name")
    assert "Unexpected OSError: File name too long. The log of the server has the traceback" in shown["message"]
    assert "in fail" in caplog.text


def test_a_model_that_is_no_classifier_shows_its_figures_and_no_curve(
    page: "Page", session: Session, study: Study
) -> None:
    session.choose({**FOUND, "model": "sample"})
    session.study = study
    sweep = page.layout.shown.index(page.layout.sweep)
    assert page._render(session, Choice())[sweep]["interactive"] is True
    session.study = replace(study, no_curve="sample is no classifier.")
    assert page._render(session, Choice())[sweep]["interactive"] is False
    assert (
        "The curve cannot be measured: sample is no classifier." in page._move(session, "ratio", 30, False, False)[0]
    )
    cost = {"parameters": 10, "macs": 10, "bytes": 10}
    part = {"squared_error": {"mean": 0.25, "interval": [0.2, 0.3]}, "images": 8}
    knn = {"top1": 0.5, "interval": [0.4, 0.6], "neighbors": 5, "bank_images": 100}
    results = {
        "plan": {"ratio": 0.3},
        "cost": {"dense": cost, "pruned": cost},
        "predicted": {},
        "evaluation": {"dense": {"knn": knn}, "pruned": {"knn": knn, "outputs": {"depth": part}}},
    }
    shown = views.receipt(results, "name")
    for text in ("squared error", "0.25 (0.2 to 0.3)", "k-NN top-1, 5 neighbors of 100", "50.0 % (40.0 to 60.0)"):
        assert text in shown


def test_a_backbone_has_a_reason_for_no_curve() -> None:
    from transformers import ViTConfig, ViTModel

    from hf_vbp.ui.study import _why_no_curve
    from hf_vbp.workflow.loading import LoadedModel

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = ViTModel(ViTConfig(image_size=8, patch_size=4, **sizes))
    assert "owner/name" in _why_no_curve(LoadedModel("owner/name", model, None))


def test_the_inspecting_process_starts_before_the_page_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_vbp.ui.launch import build

    started: list[Any] = []
    monkeypatch.setattr("hf_vbp.ui.inspector.Inspector.start", lambda inspector: started.append(inspector))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    made = build(Settings())
    assert started == [made.actions.inspector]
    made.actions.close()
    asyncio.set_event_loop(None)
    gc.collect()
