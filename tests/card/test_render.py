"""The whole card: every measured figure, and no other."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hf_vbp.card import sections
from hf_vbp.card.base_card import BaseCard
from hf_vbp.card.front_matter import split_card
from hf_vbp.card.render import make_facts, render_card, template
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
def test_examples_equal_the_rendered_cards(example: Path) -> None:
    """To accept a change of the template: ``python -m tests.card.test_render``."""
    assert render_example(example) == (example / "README.md").read_text(encoding="utf-8")


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 2


def test_the_card_of_a_model_that_only_merges_tokens() -> None:
    dense = {"parameters": 30000, "macs": 500000, "bytes": 120000}
    cost = {"dense": dense, "pruned": {**dense, "macs": 400000}}
    made = card(widths=[48, 48, 48], merged_tokens=[0, 3, 3], cost=cost)
    metadata, body = split_card(made)
    assert "made faster by merging tokens" in body
    assert "before each block: 0, 3, 3." in body
    assert "It has 20.0 % fewer MACs than the dense model" in body
    assert "No neurons are removed." in body
    for words in ("Removed neurons", " 0.0 %", "not masked"):
        assert words not in body
    assert {"token-merging", "hf_vbp"} <= set(metadata["tags"])
    assert not {"pruned", "structured-pruning"} & set(metadata["tags"])
    # A card of an earlier version loses the section.
    assert "Removed neurons" not in render_card(
        make_facts(make_results(widths=[48, 48, 48], merged_tokens=[0, 3, 3], cost=cost), repo_id="me/x"), card()
    )


def test_rendering_is_deterministic() -> None:
    assert card() == card()


@pytest.mark.parametrize("key", ["evaluation", "latency", "predicted", "statistics", "data", "receipt", "command"])
def test_unmeasured_figures_are_left_out(key: str) -> None:
    results = make_results()
    del results[key]
    text = render_card(make_facts(results, repo_id="me/x"))
    headings = {"evaluation": "## Accuracy", "predicted": "## Predicted", "data": "## Data"}
    marks = {"latency": "Latency", "statistics": "halves of the images", "receipt": "loaded by", "command": "```bash"}
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
    """The template itself has no figures."""
    body = split_card(card())[1]
    fixed = set(re.findall(r"\d+\.\d+", re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "", template())))
    assert not {figure for figure in re.findall(r"\d+\.\d{2,}", body) if figure in fixed}


def test_uniform_widths_load_everywhere() -> None:
    text = render_card(make_facts(make_results([16, 16, 16]), repo_id="me/x"))
    assert "trust_remote_code" not in text
    assert "without the package and without a flag" in text
    assert "With neither" not in text


def test_a_backbone_has_no_labels_to_print() -> None:
    described = make_results()["base_model"] | {"architecture": "ViTModel"}
    text = card(base_model=described)
    assert "AutoModel.from_pretrained" in text
    assert "id2label" not in text


def test_text_and_keys_of_the_user_are_kept() -> None:
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
def test_a_present_card_with_invalid_metadata(bad: str) -> None:
    with pytest.raises(ConfigurationError, match="correct them"):
        card(bad)


def test_results_without_a_required_section() -> None:
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


INJECTIONS = (
    "<script>alert(1)</script>",
    "x\n\n# A heading",
    "x\n<!-- hf_vbp:end summary -->\n",
    "<!-- hf_vbp:end reproduce -->",
    "```\n# A heading\n",
    "` <b>bold</b> `",
    "[link](http://example.com)",
    "![image](https://example.com/a.png)",
    "{{ facts.results }} {% raw %}",
    "# A heading",
    "1. item",
    "| cell |",
    "~~y~~ **z** _w_ &lt;b&gt;",
    "---",
    "text\n===",
    "> quote",
)


def with_text(content: str) -> dict[str, Any]:
    """Return results with a foreign text in every field that may hold one."""
    results = make_results(command=content)
    for name in ("criterion", "compensation", "scope"):
        results["plan"][name] = content
    results["base_model"] |= {"revision": content, "id": content, "source": "folder", "model_type": content}
    results["data"]["calibration"] |= {"source": content, "split": content}
    results["statistics"] |= {"moments": content, content: content}
    results["predicted"][content] = 1.0
    results["finetuning"] = {"recipe": content, content: 3}
    results["latency"][0] |= {"device": content, "dtype": content, content: content}
    results["receipt"].append({"way": content, "transformers": content, "max_abs_difference": 0.0})
    results["versions"] = {content: content}
    return results


@pytest.mark.parametrize("content", INJECTIONS)
def test_foreign_text_is_shown_as_text(content: str) -> None:
    """Read by another Markdown parser, a card with foreign text has the structure of a card with plain text."""
    plain, hostile = (render_card(make_facts(with_text(value), repo_id="me/x")) for value in ("text", content))
    assert structure(hostile) == structure(plain)
    assert [section.name for section in sections.split(hostile)] == [section.name for section in sections.split(plain)]
    assert not sections.defects(split_card(hostile)[1])


def structure(card: str) -> list[tuple[str, str]]:
    """Return the elements of a card in their order, with the content of HTML and the targets of links."""
    found = []
    for block in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(card.split("---\n", 2)[2]):
        for token in [block, *(block.children or [])]:
            if token.type.startswith("html"):
                found.append((token.type, token.content))
            elif token.type not in ("text", "text_special", "softbreak"):
                found.append((token.type, str(token.attrGet("href") or token.attrGet("src") or token.tag)))
    return found


@pytest.mark.parametrize("name", ["me/x y", "../x", 'me/x"', "me/<b>", "a/b/c"])
def test_the_repository_must_be_an_id(name: str) -> None:
    with pytest.raises(ConfigurationError, match="repo_id"):
        make_facts(make_results(), repo_id=name)


def test_the_package_is_pure() -> None:
    """Rendering imports neither transformers, torch nor the client part, and opens no socket."""
    script = """
import socket, sys
import hf_vbp
for name in ("transformers", "torch", "datasets", "hf_vbp.hub"):
    sys.modules[name] = None
socket.socket = None
from hf_vbp.card.render import make_facts, render_card
from hf_vbp.results.record import load_results
print(len(render_card(make_facts(load_results(sys.argv[1]), repo_id="me/x"))))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(EXAMPLES[0])], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 3000


def render_example(folder: Path) -> str:
    """Render the card of an example from its results file and its ``about.json``."""
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    results = json.loads((folder / "vbp_results.json").read_text(encoding="utf-8"))
    base = BaseCard(**about["base"]) if "base" in about else None
    return render_card(make_facts(results, repo_id=about["repo_id"], base_model=about["base_model"], base=base))


if __name__ == "__main__":
    GOLDEN.write_text(card(), encoding="utf-8")
    for folder in EXAMPLES:
        (folder / "README.md").write_text(render_example(folder), encoding="utf-8")


def test_the_latency_table_fits_its_page() -> None:
    row = {"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3", "dtype": "bfloat16", "threads": 16, "min_ms": 2.1,
           "p10_ms": 2.2, "p90_ms": 2.6, "images_per_second": 400.0, "repetitions": 21}  # fmt: skip
    rows = [
        {**row, "model": "dense", "batch": 16, "median_ms": 2.5},
        {**row, "model": "pruned", "batch": 16, "median_ms": 1.9, "speedup": 1.3158, "speedup_interval": [1.3, 1.33]},
    ]
    card = render_card(make_facts(make_results(latency=rows), repo_id="me/x"))
    table = [line for line in card.partition("Latency of one")[2].splitlines() if line.startswith("|")][:4]
    where = "NVIDIA H100 80GB HBM3 (cuda), bfloat16, 16 threads"
    assert table[0] == "| model | measured on | batch | median (ms) | speed-up (95 % interval) |"
    assert table[2:] == [
        f"| dense | {where} | 16 | 2.5 |  |",
        f"| pruned | {where} | 16 | 1.9 | 1.32x (1.30 to 1.33) |",
    ]
    assert max(map(len, table)) < 110
