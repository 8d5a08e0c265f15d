"""The card of a push: made from the results, the card of the base model, and the user's own text."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp.card.front_matter import split_card
from hf_vbp.card.render import make_facts, render_card
from hf_vbp.card.sections import has_own_text
from hf_vbp.files.layout import CARD, PROCESSORS
from hf_vbp.hub.base_card import read_base_card
from hf_vbp.hub.files import PushFile, checked_path, read_text
from hf_vbp.hub.model_task import model_task
from hf_vbp.hub.remote import Remote, read_card
from hf_vbp.hub.retries import Retries

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def make_push_card(
    api: "HfApi",
    repo_id: str,
    directory: Path,
    results: Mapping[str, Any],
    base_model: str | None,
    remote: Remote,
    retries: Retries,
    files: Sequence[PushFile] = (),
) -> tuple[PushFile, list[str]]:
    """Return the card to send, and notes on the values left out of it.

    The user's own sections come from the README.md of the folder, or else from the one in the repository.

    Raises:
        ConfigurationError: The card cannot be made, or the present one cannot be read.
        HubError: The Hub did not answer.
    """
    has_processor = any((directory / name).is_file() for name in PROCESSORS)
    given: dict[str, Any] = {
        "repo_id": repo_id,
        "base_model": base_model,
        "has_processor": has_processor,
        "exported": {file.path for file in files},
        "task": model_task(results),
    }
    facts = make_facts(results, **given)
    remarks = list(facts.remarks)
    if facts.base_id is not None and remote.unread is None:
        base, remark = read_base_card(facts.base_id, facts.base_revision, api, retries)
        remarks += [remark] if remark else []
        facts = make_facts(results, base=base, **given)
    existing = present_card(api, repo_id, directory, remote, retries)
    return PushFile.of(CARD, render_card(facts, existing).encode()), remarks


def present_card(api: "HfApi", repo_id: str, directory: Path, remote: Remote, retries: Retries) -> str | None:
    """Return the card whose own text and metadata are kept.

    It is the card in the folder, if it has text of the user's own, and otherwise the one in the repository, which may
    have been edited on the web page.
    """
    local = None
    if (directory / CARD).exists():
        local = read_text(checked_path(directory, CARD))
        if has_own_text(split_card(local)[1]):
            return local
    return read_card(api, repo_id, remote, retries) or local
