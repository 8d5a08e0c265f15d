"""``push_space``: put an exported folder with its page up as a static Space."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_vbp.export.web import page_files
from hf_vbp.files.layout import CARD
from hf_vbp.hub.client import make_api
from hf_vbp.hub.files import PushFile, read_json
from hf_vbp.hub.preflight import check_secrets, private_paths
from hf_vbp.hub.push import PushRequest, decide_push, read_target
from hf_vbp.hub.push_plan import PushPlan, PushResult
from hf_vbp.hub.retries import DEFAULT, Retries
from hf_vbp.hub.send import send_push

# Files of weights and machine code, which are not searched for text.
_BINARY = (".onnx", ".wasm")
# Without these headers ONNX Runtime uses one thread.
SPACE_HEADERS = {
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}
_TEXT = """\
# {title}

An image classifier that was pruned with hf_vbp and runs in the browser with transformers.js and ONNX Runtime. Pictures
stay on the device of the visitor.

{models}
"""


def push_space(
    directory: str | Path,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    overwrite: bool = False,
    commit_message: str | None = None,
    dry_run: bool = False,
    on_plan: Callable[[PushPlan], None] | None = None,
    retries: Retries | None = None,
) -> PushResult:
    """Push an exported folder with its page to a static Space in one commit. Static Spaces are free.

    Args:
        directory: The folder that :func:`hf_vbp.export.web.write_page` or ``hf-vbp export --web`` wrote.
        repo_id: The Space: ``name`` (in your namespace), ``user/name`` or ``organization/name``.
        token: Passed on to huggingface_hub: a token, None for the stored one, or False for none.
        private: Whether a new Space is private; None for the default of the namespace.
        overwrite: Commit to a Space that already has content.
        commit_message: Message of the commit.
        dry_run: Stop after all checks, before anything is sent.
        on_plan: Called with the plan after all checks, before anything is sent.
        retries: How often the commit and repeatable requests are tried.

    Returns:
        The result, or with ``dry_run`` the plan alone.

    Raises:
        CheckpointError: The folder has no complete page, or a file holds a token.
        HubError: The Hub refused or did not answer, or the Space has content.
    """
    folder = Path(directory)
    files = [PushFile.of(name, folder / name) for name in page_files(folder)]
    files.append(PushFile.of(CARD, _card(read_json(folder, "page.json")).encode()))
    check_secrets([file for file in files if not file.path.endswith(_BINARY)])
    retries, api = retries or DEFAULT, make_api(token)
    request = PushRequest(private=private, overwrite=overwrite, dry_run=dry_run)
    repo_id, remote = read_target(api, repo_id, request, retries, "space")
    plan = decide_push(folder, repo_id, files, remote, request, private_paths(files, folder))
    if on_plan is not None:
        on_plan(plan)
    if dry_run:
        return PushResult("dry_run", plan.repo_id, plan.page(api.endpoint), plan.parent, None, plan)
    return send_push(api, plan, commit_message, retries)


def _card(page: dict[str, Any]) -> str:
    """Return the README.md of the Space, with the settings by which the Hub serves it."""
    import yaml  # type: ignore[import-untyped]

    title = str(page["title"])
    settings = {
        "title": title,
        "emoji": "\N{FRAME WITH PICTURE}",
        "colorFrom": "blue",
        "colorTo": "gray",
        "sdk": "static",
        "app_file": "index.html",
        "pinned": False,
        "tags": ["image-classification", "pruned", "transformers.js"],
        "custom_headers": SPACE_HEADERS,
    }
    models = [
        f"- {model['name']}: " + ", ".join(f"{file['dtype']}, {file['bytes'] / 1e6:.1f} MB" for file in model["files"])
        for model in page["models"]
    ]
    front = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    heading = " ".join(title.split()).replace("<", "&lt;")
    return f"---\n{front}---\n\n{_TEXT.format(title=heading, models=chr(10).join(models))}"
