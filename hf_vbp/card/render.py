"""From a results file to the text of a card."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from hf_vbp.card import sections, text
from hf_vbp.card.facts import BaseCard, CardFacts
from hf_vbp.card.metadata import REPO_ID, card_metadata, check_metadata
from hf_vbp.errors import ConfigurationError


def make_facts(
    results: Mapping[str, Any],
    *,
    repo_id: str | None = None,
    base_model: str | None = None,
    base: BaseCard | None = None,
    has_processor: bool = True,
    remarks: tuple[str, ...] = (),
) -> CardFacts:
    """Return what a card says, from the results file.

    Args:
        results: The results file (docs/results.md).
        repo_id: Where the checkpoint will lie on the Hub.
        base_model: Hub id of the base model, where the results do not name one (it was loaded from a folder).
        base: What the base model's own card says.
        has_processor: Whether an image processor lies beside the weights.
        remarks: What is already known to be left out.

    Raises:
        ConfigurationError: The results lack a part that a card cannot do without, or ``base_model`` is a path.
    """
    missing = [key for key in ("base_model", "plan", "cost", "versions") if key not in results]
    if missing:
        raise ConfigurationError(f"The results file has no {', '.join(missing)}: a card cannot be made from it.")
    if base_model is not None and (not REPO_ID.fullmatch(base_model) or Path(base_model).exists()):
        raise ConfigurationError(f"base_model must be the id of a repository on the Hub, not {base_model!r}.")
    described = results["base_model"]
    named = str(described.get("id", "")) or None
    from_hub = described.get("source", "hub") == "hub" and named is not None and REPO_ID.fullmatch(named)
    base_id = base_model or (named if from_hub else None)
    if base_id is None:
        remarks += ("base_model is left out of the card: the model was loaded from a folder (give base_model=...).",)
    name = repo_id.rpartition("/")[2] if repo_id else f"{_short(base_id or named or described['model_type'])}-vbp"
    base_name = f"[{base_id}](https://huggingface.co/{base_id})" if base_id else text.foreign(_short(named or name))
    revision = described.get("revision")
    return CardFacts(
        name, repo_id, base_id, base_name, revision, base, results, has_processor=has_processor, remarks=remarks
    )


def _short(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def template() -> str:
    """Return the Jinja template of the card, as it is shipped."""
    return resources.files("hf_vbp.card").joinpath("template.md").read_text(encoding="utf-8")


def render_card(facts: CardFacts, existing: str | None = None) -> str:
    """Return the text of the card; the same text for the same facts.

    Args:
        facts: What it says.
        existing: The card that stands there now. What the user wrote outside the marks, and metadata of the
            user's own, stay.

    Raises:
        ConfigurationError: The metadata would be refused by the Hub, or those of ``existing`` are not YAML.

    Example:
        >>> from hf_vbp.card import make_facts, render_card
        >>> from hf_vbp.results.record import load_results
        >>> card = render_card(make_facts(load_results("pruned-vit"), repo_id="me/pruned-vit"))  # doctest: +SKIP
    """
    old_data, old_body = split_card(existing) if existing else ({}, "")
    metadata = card_metadata(facts, old_data)
    check_metadata(metadata.to_dict())  # type: ignore[no-untyped-call]
    card = ModelCard.from_template(metadata, template_str=template(), facts=facts, filled=text.FULL, empty=text.EMPTY)
    fresh = str(card.content)
    head, body = _divide(fresh)
    return head + (sections.merge(body, old_body) if existing else body.rstrip("\n") + "\n")


def _divide(card: str) -> tuple[str, str]:
    """Return the metadata block with its marks, and the body behind it."""
    if card.startswith("---\n") and (end := card.find("\n---\n", 3)) >= 0:
        return card[: end + 5], card[end + 5 :]
    return "", card


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """Return metadata and body of a card that stands somewhere."""
    import yaml  # type: ignore[import-untyped]

    head, body = _divide(card.replace("\r\n", "\n"))
    try:
        data = yaml.safe_load(head.strip().strip("-")) if head else {}
    except yaml.YAMLError as error:
        raise ConfigurationError(
            f"The metadata of the present README.md are not YAML ({error}); mend them."
        ) from error
    if data is None or isinstance(data, dict):
        return data or {}, body
    raise ConfigurationError("The metadata of the present README.md are not a mapping; mend them.")
