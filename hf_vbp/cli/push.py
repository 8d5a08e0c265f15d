"""``hf-vbp push`` and ``hf-vbp pull-check``: publish a checkpoint, audit a published one."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from hf_vbp.cli import groups
from hf_vbp.cli.console import standard_output

RepoId = Annotated[
    str, typer.Argument(help="user/name, organisation/name, or a name of your own.", show_default=False)
]

TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Also run code of the checkpoint that is no version of hf_vbp's file."),
]


def push(
    directory: Annotated[Path, typer.Argument(help="A folder that `hf-vbp prune` wrote.", show_default=False)],
    repo_id: RepoId,
    private: Annotated[bool | None, typer.Option("--private/--public", help="Visibility of a new repository.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to; made where it is not there.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Commit to a repository that has content.")] = False,
    base_model: Annotated[str | None, typer.Option(help="Hub id of the base model, where it was a folder.")] = None,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show everything, send nothing.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Push a pruned checkpoint to the Hub in one commit, with a model card made from its results."""
    from hf_vbp.hub.push import push_to_hub
    from hf_vbp.hub.push_plan import PushPlan

    console = standard_output()

    def show(plan: PushPlan) -> None:
        for line in plan.lines:
            console.print(line, markup=False, soft_wrap=True)

    result = push_to_hub(
        directory,
        repo_id,
        private=private,
        revision=revision,
        create_pr=create_pr,
        overwrite=overwrite,
        base_model=base_model,
        commit_message=message,
        dry_run=dry_run,
        trust_remote_code=trust_remote_code,
        on_plan=show,
    )
    console.print(result.sentence, markup=False, soft_wrap=True)


def pull_check(
    repo_id: RepoId,
    revision: groups.Revision = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Download a pruned checkpoint and check its weights, its receipt and the figures of its card."""
    from hf_vbp.hub.audit import audit

    report = audit(repo_id, revision, trust_remote_code=trust_remote_code)
    console = standard_output()
    for line in report.lines:
        console.print(line, markup=False, soft_wrap=True)
    if not report.passed:
        sys.exit(1)
