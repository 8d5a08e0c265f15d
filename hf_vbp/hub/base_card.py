"""Read the card of the base model from the Hub."""

from typing import TYPE_CHECKING, Any

from hf_vbp.card.base_card import BaseCard
from hf_vbp.hub.client import model_info
from hf_vbp.hub.failures import FAILURES, explain, hub_error, is_transient
from hf_vbp.hub.retries import DEFAULT, Retries, patiently

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def read_base_card(
    base_id: str, revision: str | None, api: "HfApi", retries: Retries | None = None
) -> tuple[BaseCard | None, str | None]:
    """Read the card of the base model with one request.

    Args:
        base_id: Its id on the Hub.
        revision: The commit that was pruned; None for the newest.
        api: Client of the Hub.
        retries: How often the request is tried.

    Returns:
        The facts and no note, or None and a note why license and data sets are left out.

    Raises:
        HubError: The Hub did not answer, so the content of the card is unknown.
    """
    try:
        data = patiently(lambda: model_info(api, base_id, revision), retries or DEFAULT).card_data
    except FAILURES as error:
        if is_transient(error):
            raise hub_error(error, "Reading the card of the base model", base_id) from error
        reason = explain(error, "reading the card of the base model", base_id)
        return None, f"License and data sets are left out of the card: {reason}"
    metadata: dict[str, Any] = data.to_dict() if data is not None else {}  # type: ignore[no-untyped-call]
    return BaseCard.of(metadata), None
