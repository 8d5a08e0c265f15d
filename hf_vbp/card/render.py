"""From a results file to the text of a card."""

from collections.abc import Collection, Mapping
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from hf_vbp.card import sections, text
from hf_vbp.card.base_card import BaseCard
from hf_vbp.card.facts import CardFacts
from hf_vbp.card.front_matter import divide, split_card, to_yaml
from hf_vbp.card.metadata import REPO_ID, card_metadata, check_metadata
from hf_vbp.card.model_task import ModelTask, task_by_name
from hf_vbp.errors import ConfigurationError


def make_facts(
    results: Mapping[str, Any],
    *,
    repo_id: str | None = None,
    base_model: str | None = None,
    base: BaseCard | None = None,
    has_processor: bool = True,
    exported: Collection[str] = (),
    remarks: tuple[str, ...] = (),
    task: ModelTask | None = None,
) -> CardFacts:
    """Return the facts of a card, from the results file.

    Args:
        results: The content of the results file (docs/results.md).
        repo_id: Repository of the checkpoint on the Hub.
        base_model: Hub id of the base model, where the results do not name one (it was loaded from a folder).
        base: The facts from the card of the base model.
        has_processor: Whether the checkpoint has an image processor.
        exported: The files of the repository; the card lists the exported ones among them.
        remarks: Notes on values that were left out already.
        task: How the model is loaded, and its task on the Hub (:func:`hf_vbp.hub.model_task.model_task`); by default
            what the name of its class states.

    Raises:
        ConfigurationError: The results lack a required section, or ``repo_id`` or ``base_model`` is not the id of a
            repository.
    """
    missing = [key for key in ("base_model", "plan", "cost", "versions") if key not in results]
    if missing:
        raise ConfigurationError(f"The results file has no {', '.join(missing)}: a card cannot be made from it.")
    for option, value in (("repo_id", repo_id), ("base_model", base_model)):
        if value is not None and not REPO_ID.fullmatch(value):
            raise ConfigurationError(f"{option} is {value!r}; expected the id of a repository, such as me/pruned-vit.")
    described = results["base_model"]
    named = str(described.get("id", "")) or None
    from_hub = described.get("source", "hub") == "hub" and named is not None and REPO_ID.fullmatch(named)
    base_id = base_model or (named if from_hub else None)
    if base_id is None:
        remarks += (
            "base_model is left out of the card: the model was loaded from a folder (give its Hub id with base_model, "
            "--base-model on the command line).",
        )
    name = repo_id.rpartition("/")[2] if repo_id else f"{_short(base_id or named or described['model_type'])}-vbp"
    revision = described.get("revision")
    return CardFacts(
        name,
        repo_id,
        base_id,
        _short(named or name),
        revision,
        base,
        results,
        has_processor,
        tuple(row for row in results.get("exports", []) if row["file"] in exported),
        remarks,
        task=task or task_by_name(str(described["architecture"])),
    )


def _short(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def template() -> str:
    """Return the Jinja template of the card that the package includes."""
    return resources.files("hf_vbp.card").joinpath("template.md").read_text(encoding="utf-8")


@cache
def _compiled() -> Template:
    # Not HTML but Markdown is escaped: every value that is not Markdown already.
    environment = Environment(finalize=text.foreign_line, undefined=StrictUndefined, autoescape=False)
    return environment.from_string(template())


def render_card(facts: CardFacts, existing: str | None = None) -> str:
    """Return the text of the card. Equal facts give equal text.

    Args:
        facts: The facts that the card shows.
        existing: The present card. Text that the user wrote outside the marks, and the user's own metadata, are kept.

    Raises:
        ConfigurationError: The Hub would refuse the metadata, or those of ``existing`` are not YAML.

    Example:
        >>> from hf_vbp.card.render import make_facts, render_card
        >>> from hf_vbp.results.record import load_results
        >>> card = render_card(make_facts(load_results("pruned-vit"), repo_id="me/pruned-vit"))  # doctest: +SKIP
    """
    old_data, old_body = split_card(existing) if existing else ({}, "")
    metadata = card_metadata(facts, old_data)
    check_metadata(metadata)
    values = {"card_data": text.Markdown(to_yaml(metadata)), "filled": text.FULL, "empty": text.EMPTY}
    head, body = divide(_compiled().render(facts=facts, **values))
    return head + (sections.merge(body, old_body) if existing else body.rstrip("\n") + "\n")
