"""What the base model's own card says: read where it can be read, never guessed."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_vbp.card.facts import BaseCard

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from hf_vbp.hub.retries import Retries


def base_card_of(metadata: Mapping[str, Any]) -> BaseCard:
    """Return what a card's metadata say on licence and data sets."""
    datasets = metadata.get("datasets") or []
    datasets = [datasets] if isinstance(datasets, str) else datasets
    license = metadata.get("license")
    license = license[0] if isinstance(license, list) and license else license
    return BaseCard(
        license=str(license) if license else None,
        license_name=metadata.get("license_name"),
        license_link=metadata.get("license_link"),
        datasets=tuple(str(dataset) for dataset in datasets),
    )


def read_base_card(
    base_id: str, revision: str | None, api: "HfApi", retries: "Retries | None" = None
) -> tuple[BaseCard | None, str | None]:
    """Read the card of the base model: one request.

    Args:
        base_id: Its id on the Hub.
        revision: The commit that was pruned; None for the newest.
        api: Client to ask with.
        retries: How often it is asked.

    Returns:
        What it says and no remark, or None and the remark why licence and data sets are left out.

    Raises:
        HubError: The Hub did not answer, so that nobody knows what the card says.
    """
    from hf_vbp.hub.failures import FAILURES, explain, hub_error, is_transient
    from hf_vbp.hub.retries import DEFAULT, patiently

    try:
        data = patiently(lambda: api.model_info(base_id, revision=revision), retries or DEFAULT).card_data
    except FAILURES as error:
        if is_transient(error):
            raise hub_error(error, "Reading the card of the base model", base_id) from error
        reason = explain(error, "reading the card of the base model", base_id)
        return None, f"Licence and data sets are left out of the card: {reason}"
    metadata: dict[str, Any] = data.to_dict() if data is not None else {}  # type: ignore[no-untyped-call]
    return base_card_of(metadata), None
