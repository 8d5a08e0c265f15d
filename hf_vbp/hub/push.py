"""``push_to_hub``: check, plan, send one commit, read it back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hf_vbp.checkpoint.remote_code import inspect_code, refuse_foreign_code
from hf_vbp.errors import ConfigurationError, HubError
from hf_vbp.hub.client import full_repo_id, make_api
from hf_vbp.hub.failures import is_unreachable
from hf_vbp.hub.files import PushFile, checkpoint_files, exported_files
from hf_vbp.hub.load_checks import check_loads, check_receipt
from hf_vbp.hub.preflight import check_checkpoint, check_secrets, private_paths, unnamed_classes
from hf_vbp.hub.push_card import make_push_card
from hf_vbp.hub.push_plan import PushPlan, PushResult
from hf_vbp.hub.remote import Remote, RepoType, read_remote, refuse_content
from hf_vbp.hub.retries import DEFAULT, Retries
from hf_vbp.hub.send import send_push
from hf_vbp.results.record import load_results

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def push_to_hub(
    directory: str | Path,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    overwrite: bool = False,
    commit_message: str | None = None,
    dry_run: bool = False,
    base_model: str | None = None,
    exports: bool = False,
    check_load: bool = True,
    trust_remote_code: bool = False,
    on_plan: Callable[[PushPlan], None] | None = None,
    retries: Retries | None = None,
) -> PushResult:
    """Push a checkpoint to the Hub in one commit, with a card made from its results.

    Args:
        directory: The folder that ``hf-vbp prune --output`` or :func:`hf_vbp.save_checkpoint` wrote.
        repo_id: The repository: ``name`` (in your namespace), ``user/name`` or ``organization/name``.
        token: Passed on to huggingface_hub: a token, None for the stored one, or False for none.
        private: Whether a new repository is private; None for the default of the namespace. An existing one is
            not changed: if its visibility differs, nothing is sent.
        revision: A branch to commit to, created at the head of main if it does not exist.
        create_pr: Open a pull request instead of committing.
        overwrite: Commit to a repository that already has content. Weights of an earlier model are deleted.
        commit_message: Message of the commit.
        dry_run: Stop after all checks, before anything is sent. Without a connection or a token the folder alone is
            checked, and ``not_checked`` of the plan lists the rest.
        base_model: Hub id of the base model, where it was loaded from a folder.
        exports: Also send the files that ``hf-vbp export`` wrote next to the weights.
        check_load: Load the checkpoint in a fresh process first and compare it with its receipt.
        trust_remote_code: Whether foreign code of the checkpoint may run in that process, which has no access
            tokens. Without it, and with ``check_load``, a checkpoint with foreign code is refused.
        on_plan: Called with the plan after all checks, before anything is sent.
        retries: How often the commit and repeatable requests are tried.

    Returns:
        The result, or with ``dry_run`` the plan alone.

    Raises:
        CheckpointError: The folder is not a complete checkpoint, does not load as its receipt shows, or can run
            foreign code that was not allowed.
        ConfigurationError: The card cannot be made, or options contradict each other.
        HubError: The Hub refused or did not answer, or the repository has content.

    Example:
        >>> import hf_vbp
        >>> print(hf_vbp.push_to_hub("pruned-vit", "me/pruned-vit", dry_run=True).plan.lines)  # doctest: +SKIP
    """
    request = PushRequest(
        private,
        revision,
        create_pr,
        overwrite,
        base_model,
        trust_remote_code or not check_load,
        dry_run,
        exports,
    )
    retries, api = retries or DEFAULT, make_api(token)
    plan = plan_push(api, Path(directory), repo_id, request, retries)
    if check_load:
        check_loads(plan.directory, trust_remote_code)
    if on_plan is not None:
        on_plan(plan)
    if dry_run:
        return PushResult("dry_run", plan.repo_id, plan.page(api.endpoint), plan.parent, revision, plan)
    return send_push(api, plan, commit_message, retries)


@dataclass(frozen=True)
class PushRequest:
    """Options of a push; see :func:`push_to_hub`.

    Raises:
        ConfigurationError: Options contradict each other, or ``base_model`` is a folder.
    """

    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    overwrite: bool = False
    base_model: str | None = None
    accepts_foreign_code: bool = False
    dry_run: bool = False
    exports: bool = False

    def __post_init__(self) -> None:
        if self.create_pr and (self.overwrite or self.revision):
            raise ConfigurationError("create_pr opens a pull request on main: give it without overwrite and revision.")
        if self.base_model is not None and Path(self.base_model).exists():
            raise ConfigurationError(f"base_model is the folder {self.base_model}; expected the id of a repository.")


def plan_push(api: "HfApi", directory: Path, repo_id: str, request: PushRequest, retries: Retries) -> PushPlan:
    """Check the folder, read the repository, make the card, and return the plan of the push.

    Raises:
        CheckpointError: The folder is not a complete checkpoint.
        ConfigurationError: The card cannot be made.
        HubError: The repository cannot be read, or must not be pushed to.
    """
    results = load_results(directory)
    files = checkpoint_files(directory)
    check_checkpoint(directory, files, results)
    code = inspect_code(directory)
    refuse_foreign_code(directory, code, request.accepts_foreign_code)
    check_receipt(results, files)
    if request.exports:
        files += exported_files(directory, results)
    repo_id, remote = read_target(api, repo_id, request, retries)
    card, remarks = make_push_card(api, repo_id, directory, results, request.base_model, remote, retries, files)
    check_secrets([card])
    everything = [*files, card]
    remarks += private_paths(everything, directory) + unnamed_classes(directory)
    remarks += [f"Foreign code: {code.summary}."] if code.findings else []
    return decide_push(directory, repo_id, everything, remote, request, remarks)


def read_target(
    api: "HfApi", repo_id: str, request: PushRequest, retries: Retries, repo_type: RepoType = "model"
) -> tuple[str, Remote]:
    """Return the full name of the repository and its content, which a dry run does without where there is no Hub.

    Raises:
        HubError: The name is not valid, or the repository cannot be read.
    """
    full_id = repo_id
    try:
        full_id = full_repo_id(api, repo_id)
        return full_id, read_remote(api, full_id, request.revision, retries, repo_type)
    except HubError as error:
        if not (request.dry_run and is_unreachable(error.__cause__)):
            raise
        return full_id, Remote(exists=False, unread=str(error), repo_type=repo_type)


def check_push_target(
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    overwrite: bool = False,
) -> None:
    """Refuse a repository that a push must not change. Call it before long work, such as training.

    Raises:
        HubError: It has content, its visibility is not the requested one, or it cannot be read.
    """
    api = make_api(token)
    repo_id = full_repo_id(api, repo_id)
    remote = read_remote(api, repo_id, revision)
    check_visibility(remote, repo_id, private)
    if remote.exists and not remote.is_blank and not (overwrite or revision):
        raise refuse_content(remote, repo_id)


def check_visibility(remote: Remote, repo_id: str, private: bool | None) -> None:
    """Refuse a repository whose visibility is not the requested one.

    Raises:
        HubError: It is public where private was requested, or the other way round.
    """
    if remote.exists and private is not None and private != remote.private:
        now, asked = ("private", "public") if remote.private else ("public", "private")
        raise HubError(
            f"{repo_id} is {now}, but {asked} was requested; nothing was sent. Change it on its settings page, or "
            "leave the option out."
        )


def decide_push(
    directory: Path, repo_id: str, files: Sequence[PushFile], remote: Remote, request: PushRequest, remarks: list[str]
) -> PushPlan:
    """Decide on the action of a push.

    Raises:
        HubError: The repository has content, its visibility differs, or there is no repository for a pull request.
    """
    check_visibility(remote, repo_id, request.private)
    changed, deleted = remote.changed(files), remote.stale(files)
    if remote.unread is not None:
        action = "unknown"
    elif request.create_pr and not remote.exists:
        raise HubError(f"{repo_id} does not exist, so it cannot get a pull request. Push without --create-pr.")
    elif remote.exists and remote.has_revision and not changed and not deleted:
        action = "nothing"
    elif remote.exists and not remote.is_blank and not (request.overwrite or request.create_pr or request.revision):
        raise refuse_content(remote, repo_id)
    else:
        action = "pull_request" if request.create_pr else "commit" if remote.exists else "create"
    return PushPlan(
        directory,
        repo_id,
        action,
        request.revision,
        remote.private if remote.exists else request.private,
        remote.head,
        tuple(files),
        tuple(file.path for file in changed),
        tuple(deleted),
        tuple(dict.fromkeys(remarks)),
        _not_checked(repo_id, remote) if request.dry_run else (),
        remote.repo_type,
    )


def _not_checked(repo_id: str, remote: Remote) -> tuple[str, ...]:
    """Return what a dry run leaves to the push."""
    if remote.unread is None:
        return (f"whether the token may write to {repo_id}.",)
    return (
        f"whether {repo_id} exists, its content and visibility, and whether the token may write to it. "
        f"{remote.unread}",
        "license and data sets in the card, which are those of the base model on the Hub.",
    )
