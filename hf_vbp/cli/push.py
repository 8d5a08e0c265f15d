"""``hf-vbp push``: publish a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_vbp.cli import groups
from hf_vbp.cli.console import print_json, print_lines
from hf_vbp.cli.groups import HUB, option
from hf_vbp.errors import ConfigurationError

if TYPE_CHECKING:
    from hf_vbp.hub.push_plan import PushPlan, PushResult

RepoId = Annotated[
    str, typer.Argument(help="user/name, organization/name, or a name in your own namespace.", show_default=False)
]
Revision = Annotated[str | None, option(HUB, "--revision", help="Branch, tag, commit or pull request on the Hub.")]


def push(
    directory: Annotated[
        Path,
        typer.Argument(help="A folder that `hf-vbp prune` or, with --space, `export` wrote.", show_default=False),
    ],
    repo_id: RepoId,
    space: Annotated[
        bool, option(HUB, "--space", help="Put the page of `hf-vbp export --web` up as a static Space, which is free.")
    ] = False,
    private: Annotated[bool | None, option(HUB, "--private/--public", help="Visibility of a new repository.")] = None,
    revision: Annotated[
        str | None, option(HUB, "--revision", help="Branch to commit to; created if it does not exist.")
    ] = None,
    create_pr: Annotated[bool, option(HUB, "--create-pr", help="Open a pull request instead of committing.")] = False,
    overwrite: Annotated[bool, option(HUB, "--overwrite", help="Commit to a repository that has content.")] = False,
    base_model: Annotated[
        str | None, option(HUB, "--base-model", help="Hub id of the base model, if it was loaded from a folder.")
    ] = None,
    exports: Annotated[
        bool, option(HUB, "--exports", help="Also send the files that `hf-vbp export` wrote there.")
    ] = False,
    message: Annotated[str | None, option(HUB, "--message", help="Message of the commit.")] = None,
    dry_run: Annotated[
        bool,
        option(
            HUB, "--dry-run", help="Run all checks and show the changes and the card; send nothing. Works offline."
        ),
    ] = False,
    trust_remote_code: groups.TrustRemoteCode = False,
    json: groups.Json = False,
) -> None:
    """Push a pruned checkpoint to the Hub in one commit, with a model card made from its results."""
    common: dict[str, Any] = {
        "private": private,
        "overwrite": overwrite,
        "commit_message": message,
        "dry_run": dry_run,
        "on_plan": None if json else _show_plan,
    }
    of_models: dict[str, Any] = {
        "revision": revision,
        "create_pr": create_pr,
        "base_model": base_model,
        "exports": exports,
        "trust_remote_code": trust_remote_code,
    }
    if space:
        result = _push_space(directory, repo_id, common, of_models)
    else:
        from hf_vbp.hub.push import push_to_hub

        result = push_to_hub(directory, repo_id, **common, **of_models)
    if json:
        print_json(_as_json(result))
    else:
        print_lines([*_preview(result), result.sentence])


def _push_space(directory: Path, repo_id: str, common: dict[str, Any], of_models: dict[str, Any]) -> "PushResult":
    given = [f"--{name.replace('_', '-')}" for name, value in of_models.items() if value]
    if given:
        raise ConfigurationError(f"{', '.join(given)} cannot be used with --space. Leave it out.")
    from hf_vbp.hub.push_space import push_space

    return push_space(directory, repo_id, **common)


def _show_plan(plan: "PushPlan") -> None:
    print_lines(plan.lines)


def _preview(result: "PushResult") -> list[str]:
    """Return the card of a dry run, indented."""
    if result.status != "dry_run" or not result.plan.card:
        return []
    return ["The card (README.md):", *(f"  {line}".rstrip() for line in result.plan.card.splitlines())]


def _as_json(result: "PushResult") -> dict[str, Any]:
    plan = result.plan
    return {
        "status": result.status,
        "repo_id": result.repo_id,
        "url": result.url,
        "commit": result.commit,
        "revision": result.revision,
        "files": [{"path": file.path, "size": file.size, "changed": file.path in plan.changed} for file in plan.files],
        "deleted": list(plan.deleted),
        "remarks": list(plan.remarks),
        "not_checked": list(plan.not_checked),
        "card": plan.card,
    }
