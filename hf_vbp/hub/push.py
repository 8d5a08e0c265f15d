"""``push_to_hub``: look, check, show, send one commit, read it back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_vbp._version import __version__
from hf_vbp.card.render import make_facts, render_card
from hf_vbp.card.sections import has_own_text
from hf_vbp.checkpoint.layout import CARD, PROCESSORS
from hf_vbp.checkpoint.remote_code import inspect_code, refuse_foreign_code
from hf_vbp.errors import ConfigurationError, HubError
from hf_vbp.hub.base_card import read_base_card
from hf_vbp.hub.commit import Commit, Committed, commit_with_retries
from hf_vbp.hub.files import PushFile, checked_path, checkpoint_files
from hf_vbp.hub.load_checks import check_loads, check_receipt
from hf_vbp.hub.preflight import check_checkpoint, check_secrets, private_paths
from hf_vbp.hub.push_plan import PushPlan, PushResult
from hf_vbp.hub.remote import Remote, read_card, read_files, read_remote, refuse_content
from hf_vbp.hub.retries import DEFAULT, Retries, repeat
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
    check_load: bool = True,
    trust_remote_code: bool = False,
    on_plan: Callable[[PushPlan], None] | None = None,
    retries: Retries | None = None,
) -> PushResult:
    """Put a finished checkpoint on the Hub, in one commit, with a card made from its results.

    Args:
        directory: The folder that ``hf-vbp prune --output`` or :func:`hf_vbp.save_checkpoint` wrote.
        repo_id: Where to: ``name`` (yours), ``user/name`` or ``organisation/name``.
        token: Passed on to huggingface_hub: a token, None for the one it finds, or False for none.
        private: Whether a new repository is private; None for the default of the namespace. An existing one is
            not changed: if it is not what is asked for, nothing is sent.
        revision: A branch to commit to, made at the head of main if it is not there.
        create_pr: Open a pull request instead of committing.
        overwrite: Commit to a repository that already has content. Weights of an earlier model go.
        commit_message: Message of the commit.
        dry_run: Stop after all checks, and before anything is sent.
        base_model: Hub id of the base model, where it was loaded from a folder.
        check_load: Load the checkpoint in a fresh process first and compare it with its receipt.
        trust_remote_code: Whether foreign code of the checkpoint may run in that process, which has no access
            tokens. Without it, and with ``check_load``, a checkpoint with foreign code is refused.
        on_plan: Called with what will be done after all checks, before anything is sent.
        retries: How often a request is tried that may be made again, and the commit.

    Returns:
        What was done, or would be done.

    Raises:
        CheckpointError: The folder is not a whole checkpoint, does not load as its receipt says, or can run
            foreign code that was not allowed.
        ConfigurationError: The card cannot be made, or options contradict each other.
        HubError: The Hub refused or did not answer, or the repository has content. One sentence with what to do.

    Example:
        >>> import hf_vbp
        >>> print(hf_vbp.push_to_hub("pruned-vit", "me/pruned-vit", dry_run=True).plan.lines)  # doctest: +SKIP
    """
    wish = Wish(private, revision, create_pr, overwrite, base_model, trust_remote_code or not check_load)
    retries, api = retries or DEFAULT, make_api(token)
    plan = look(api, Path(directory), repo_id, wish, retries)
    if check_load:
        check_loads(plan.directory, trust_remote_code)
    if on_plan is not None:
        on_plan(plan)
    if dry_run:
        return PushResult("dry_run", plan.repo_id, f"{api.endpoint}/{plan.repo_id}", plan.parent, revision, plan)
    return carry_out(api, plan, commit_message, retries)


@dataclass(frozen=True)
class Wish:
    """How a push is to go; see :func:`push_to_hub`.

    Raises:
        ConfigurationError: Options contradict each other.
    """

    private: bool | None = None
    revision: str | None = None
    create_pr: bool = False
    overwrite: bool = False
    base_model: str | None = None
    accepts_foreign_code: bool = False

    def __post_init__(self) -> None:
        if self.create_pr and (self.overwrite or self.revision):
            raise ConfigurationError("create_pr opens a pull request on main: give it without overwrite and revision.")


def look(api: "HfApi", directory: Path, repo_id: str, wish: Wish, retries: Retries) -> PushPlan:
    """Check the folder, read what stands in the repository, make the card, and return what is to be done.

    Raises:
        CheckpointError: The folder is not a whole checkpoint.
        ConfigurationError: The card cannot be made.
        HubError: The repository cannot be read, or must not be pushed to.
    """
    results = load_results(directory)
    files = checkpoint_files(directory)
    check_checkpoint(directory, files, results)
    code = inspect_code(directory)
    refuse_foreign_code(directory, code, wish.accepts_foreign_code)
    check_receipt(results, files)
    repo_id = full_repo_id(api, repo_id)
    remote = read_remote(api, repo_id, wish.revision, retries)
    card, remarks = make_card(api, repo_id, directory, results, wish.base_model, remote, retries)
    check_secrets([card])
    everything = [*files, card]
    remarks += private_paths(everything, directory)
    remarks += [f"Foreign code: {code.summary}."] if code.findings else []
    return make_plan(directory, repo_id, everything, remote, wish, remarks)


def check_target(
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    revision: str | None = None,
    overwrite: bool = False,
) -> None:
    """Refuse a repository that a push must not go to; to be asked before long work, such as training.

    Raises:
        HubError: It has content, is not as private as was asked for, or cannot be read.
    """
    api = make_api(token)
    repo_id = full_repo_id(api, repo_id)
    remote = read_remote(api, repo_id, revision)
    check_visibility(remote, repo_id, private)
    if remote.exists and not remote.is_blank and not (overwrite or revision):
        raise refuse_content(remote, repo_id)


def check_visibility(remote: Remote, repo_id: str, private: bool | None) -> None:
    """Refuse a repository whose visibility is not what was asked for.

    Raises:
        HubError: It is public where private was asked for, or the other way round.
    """
    if remote.exists and private is not None and private != remote.private:
        now, asked = ("private", "public") if remote.private else ("public", "private")
        raise HubError(
            f"{repo_id} is {now}, but {asked} was asked for; nothing was sent. Change it on its settings page, or "
            "leave the option out."
        )


def make_api(token: str | bool | None = None) -> "HfApi":
    """Return the client; it looks for the token itself, and nothing here reads or keeps one."""
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="hf_vbp", library_version=__version__)


def full_repo_id(api: "HfApi", repo_id: str) -> str:
    """Return ``repo_id`` with its namespace, which is asked for only when it is not given.

    Raises:
        HubError: There is no token, or the name is not valid.
    """
    from huggingface_hub.utils._validators import validate_repo_id

    repeat(lambda: validate_repo_id(repo_id), "Checking the name", repo_id, DEFAULT)
    if repo_id.endswith("/commit"):
        raise HubError(f"{repo_id}: a repository named 'commit' confuses clients of the Hub. Take another name.")
    if "/" in repo_id:
        return repo_id
    name = repeat(lambda: api.whoami()["name"], "Asking whose token it is", repo_id, DEFAULT)
    return f"{name}/{repo_id}"


def make_card(
    api: "HfApi",
    repo_id: str,
    directory: Path,
    results: dict[str, Any],
    base_model: str | None,
    remote: Remote,
    retries: Retries,
) -> tuple[PushFile, list[str]]:
    """Return the card to send and what was left out of it.

    The user's own sections come from the folder's README.md, or else from the one in the repository.
    """
    has_processor = any((directory / name).is_file() for name in PROCESSORS)
    facts = make_facts(results, repo_id=repo_id, base_model=base_model, has_processor=has_processor)
    remarks = list(facts.remarks)
    if facts.base_id is not None:
        base, remark = read_base_card(facts.base_id, facts.base_revision, api, retries)
        remarks += [remark] if remark else []
        facts = make_facts(results, repo_id=repo_id, base_model=base_model, base=base, has_processor=has_processor)
    existing = present_card(api, repo_id, directory, remote, retries)
    return PushFile.of(CARD, render_card(facts, existing).encode()), remarks


def present_card(api: "HfApi", repo_id: str, directory: Path, remote: Remote, retries: Retries) -> str | None:
    """Return the card whose own text and keys are to survive.

    That of the folder, if somebody wrote in it, and otherwise the one in the repository, which may have been edited
    on the web page.
    """
    local = None
    if (directory / CARD).exists():
        local = checked_path(directory, CARD).read_text(encoding="utf-8")
        if has_own_text(local):
            return local
    return read_card(api, repo_id, remote, retries) or local


def make_plan(
    directory: Path, repo_id: str, files: Sequence[PushFile], remote: Remote, wish: Wish, remarks: Sequence[str]
) -> PushPlan:
    """Decide what is to be done, and refuse what must not be.

    Raises:
        HubError: The repository has content, its visibility is another, or a pull request has nothing to go to.
    """
    check_visibility(remote, repo_id, wish.private)
    if wish.create_pr and not remote.exists:
        raise HubError(f"{repo_id} is not there, so it cannot get a pull request. Push without --create-pr.")
    changed, deleted = remote.changed(files), remote.stale(files)
    if remote.exists and remote.has_revision and not changed and not deleted:
        action = "nothing"
    elif remote.exists and not remote.is_blank and not (wish.overwrite or wish.create_pr or wish.revision):
        raise refuse_content(remote, repo_id)
    else:
        action = "pull_request" if wish.create_pr else "commit" if remote.exists else "create"
    return PushPlan(
        directory,
        repo_id,
        action,
        wish.revision,
        remote.private if remote.exists else wish.private,
        remote.head,
        tuple(files),
        tuple(file.path for file in changed),
        tuple(deleted),
        tuple(dict.fromkeys(remarks)),
    )


def carry_out(api: "HfApi", plan: PushPlan, message: str | None, retries: Retries) -> PushResult:
    """Do what the plan says, and read back what came of it."""
    page = f"{api.endpoint}/{plan.repo_id}"
    if plan.action == "nothing":
        return PushResult("unchanged", plan.repo_id, page, plan.parent, plan.revision, plan)
    remote = prepare(api, plan, retries)
    if remote.head is None:
        raise HubError(f"{plan.repo_id} was created but has no first commit; nothing was sent. Push again.")
    message = message or f"Upload {plan.repo_id.rpartition('/')[2]}, pruned with hf_vbp {__version__}"
    commit = Commit(
        plan.repo_id,
        plan.files,
        plan.deleted,
        message,
        remote.head,
        plan.revision,
        create_pr=plan.action == "pull_request",
    )
    done = commit_with_retries(api, commit, retries)
    read_back(api, plan, done, retries)
    status = "pull_request" if plan.action == "pull_request" else "pushed"
    revision = done.pull_request_revision or plan.revision
    return PushResult(status, plan.repo_id, done.pull_request_url or page, done.commit, revision, plan)


def prepare(api: "HfApi", plan: PushPlan, retries: Retries) -> Remote:
    """Make the repository and the branch where they are not there, and return what stands there.

    Raises:
        HubError: It cannot be made, or is not as private as was asked for.
    """
    if plan.action == "create":
        repeat(
            lambda: api.create_repo(plan.repo_id, private=plan.private, exist_ok=True),
            "Creating the repository",
            plan.repo_id,
            retries,
        )
        made = read_remote(api, plan.repo_id, retries=retries)
        if plan.private is not None and made.private != plan.private:
            raise HubError(
                f"{plan.repo_id} was made, but is {'private' if made.private else 'public'}, which is not what was "
                "asked for; no file was sent. Change it on its settings page and push again."
            )
        if not made.is_blank:
            raise refuse_content(made, plan.repo_id)
    else:
        made = Remote(True, bool(plan.private), plan.parent)
    if plan.revision is not None:
        repeat(
            lambda: api.create_branch(plan.repo_id, branch=str(plan.revision), exist_ok=True),
            f"Making the branch {plan.revision}",
            plan.repo_id,
            retries,
        )
    return made


def read_back(api: "HfApi", plan: PushPlan, done: Committed, retries: Retries) -> None:
    """Compare the commit with what was meant: a ``.gitignore`` there drops files without an error.

    Raises:
        HubError: It holds something else (the message names the files), or could not be read.
    """
    doing = f"The commit {done.commit} was made, but reading it back"
    files = repeat(lambda: read_files(api, plan.repo_id, done.commit), doing, plan.repo_id, retries)
    there = Remote(True, head=done.commit, files=files)
    wrong = [file.path for file in there.changed(plan.files)] + sorted(set(plan.deleted) & set(there.files))
    if wrong:
        raise HubError(
            f"Commit {done.commit} of {plan.repo_id} does not hold what was sent: {', '.join(wrong)} differ or are "
            "missing. A .gitignore in the repository may drop them; delete it there and push again with --overwrite."
        )
