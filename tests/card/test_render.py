"""The whole card: nothing in it that was not measured, and everything that was."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_vbp.card.facts import BaseCard
from hf_vbp.card.render import make_facts, render_card, split_card, template
from hf_vbp.errors import ConfigurationError
from tests.hub.helpers import make_results

GOLDEN = Path(__file__).with_name("golden_card.md")
EXAMPLES = sorted((Path(__file__).parents[2] / "model_cards" / "examples").glob("*"))
BASE = BaseCard(license="apache-2.0", datasets=("imagenet-1k",))


def card(existing: str | None = None, **changes: Any) -> str:
    return render_card(make_facts(make_results(**changes), repo_id="me/pruned-vit", base=BASE), existing)


def test_the_golden_card() -> None:
    """To accept a change of the template: ``python -m tests.card.test_render``."""
    assert card() == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_in_step(example: Path) -> None:
    """To accept a change of the template: ``python -m tests.card.test_render``."""
    assert render_example(example) == (example / "README.md").read_text(encoding="utf-8")


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2


def test_it_is_the_same_every_time() -> None:
    assert card() == card()


@pytest.mark.parametrize("key", ["evaluation", "latency", "predicted", "statistics", "data", "receipt", "command"])
def test_what_was_not_measured_is_not_there(key: str) -> None:
    results = make_results()
    del results[key]
    text = render_card(make_facts(results, repo_id="me/x"))
    headings = {"evaluation": "## Accuracy", "predicted": "## Predicted", "data": "## Data"}
    marks = {"latency": "Latency", "statistics": "half of the images", "receipt": "loaded by", "command": "```bash"}
    assert {**headings, **marks}[key] not in text
    assert "None" not in text
    assert "nan" not in text.lower().split()
    yaml.safe_load(text.split("---")[1])


def test_every_figure_of_the_results_is_in_the_card() -> None:
    text = card()
    for figure in (
        "84.0 %",
        "74.0 % (60.0 to 85.0)",
        "0.3125",
        "82.0 %",
        "25.00 k",
        "420.00 k",
        "2.25",
        "12.5 %",
        "510",
        "94.3 %",
        "0.9375",
    ):
        assert figure in text
    for part in ("commit `0123456789abcdef", "hf-vbp prune alice/base-vit", "transformers 5.24.0", "@inproceedings"):
        assert part in text


def test_every_number_comes_from_the_results() -> None:
    """A card of other results shares no figure with this one, but for what is no figure."""
    body = split_card(card())[1]
    fixed = set(re.findall(r"\d+\.\d+", re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", template())))
    assert not {figure for figure in re.findall(r"\d+\.\d{2,}", body) if figure in fixed}


def test_uniform_widths_load_everywhere() -> None:
    text = render_card(make_facts(make_results([16, 16, 16]), repo_id="me/x"))
    assert "trust_remote_code" not in text
    assert "without package and without flag" in text
    assert "With neither" not in text


def test_a_backbone_has_no_labels_to_print() -> None:
    described = make_results()["base_model"] | {"architecture": "ViTModel"}
    text = card(base_model=described)
    assert "AutoModel.from_pretrained" in text
    assert "id2label" not in text


def test_own_text_and_keys_survive() -> None:
    first = card()
    edited = (
        first.replace("---\n<!--", "widget:\n- src: cat.jpg\n---\nMy foreword.\n\n<!--", 1) + "\n## Contact\n\nme\n"
    )
    second = card(edited, evaluation={"dense": {"images": 9, "top1": 0.5}, "pruned": {"images": 9, "top1": 0.4321}})
    assert "My foreword." in second
    assert second.endswith("## Contact\n\nme\n")
    assert "cat.jpg" in second
    assert "43.2 %" in second
    assert "74.0 %" not in second


@pytest.mark.parametrize("bad", ["---\na: [\n---\n", "---\n- a\n---\n"])
def test_a_present_card_that_cannot_be_read(bad: str) -> None:
    with pytest.raises(ConfigurationError, match="mend them"):
        card(bad)


def test_results_that_lack_a_part() -> None:
    with pytest.raises(ConfigurationError, match="no plan, cost"):
        make_facts({"schema_version": 1, "base_model": {}, "versions": {}})


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=25, deadline=None)
@given(st.text(max_size=40))
def test_foreign_text_cannot_break_the_card(text: str) -> None:
    nasty = make_results(command=text, data={"calibration": {"source": text, "images": 3}})
    nasty["versions"] = {"torch": text}
    rendered = render_card(make_facts(nasty, repo_id="me/x"))
    assert rendered.count("<!-- hf_vbp:begin") == rendered.count("<!-- hf_vbp:end")
    assert rendered.count("```") % 2 == 0
    assert render_card(make_facts(nasty, repo_id="me/x"), rendered) == rendered


def render_example(folder: Path) -> str:
    """Render the card of an example from its results file and what it says of itself."""
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    results = json.loads((folder / "vbp_results.json").read_text(encoding="utf-8"))
    base = BaseCard(**about["base"]) if "base" in about else None
    return render_card(make_facts(results, repo_id=about["repo_id"], base_model=about["base_model"], base=base))


if __name__ == "__main__":
    GOLDEN.write_text(card(), encoding="utf-8")
    for folder in EXAMPLES:
        (folder / "README.md").write_text(render_example(folder), encoding="utf-8")
