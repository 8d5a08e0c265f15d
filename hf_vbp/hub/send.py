"""Carry out the plan of a push: create the repository and the branch if necessary, commit, read the commit back."""

from typing import TYPE_CHECKING

from hf_vbp._version import __version__
from hf_vbp.errors import HubError
from hf_vbp.hub.commit import Commit, Committed, commit_with_retries
from hf_vbp.hub.push_plan import PushPlan, PushResult
from hf_vbp.hub.remote import Remote, read_files, read_remote, refuse_content
from hf_vbp.hub.retries import Retries, repeat

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def send_push(api: "HfApi", plan: PushPlan, message: str | None, retries: Retries) -> PushResult:
    """Carry out a plan and compare the commit with it.

    Raises:
        HubError: The Hub refused or did not answer, or the commit has other files.
    """
    page = plan.page(api.endpoint)
    if plan.action == "nothing":
        return PushResult("unchanged", plan.repo_id, page, plan.parent, plan.revision, plan)
    remote = create_missing(api, plan, retries)
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
        repo_type=plan.repo_type,
    )
    done = commit_with_retries(api, commit, retries)
    read_back(api, plan, done, retries)
    status = "pull_request" if plan.action == "pull_request" else "pushed"
    revision = done.pull_request_revision or plan.revision
    return PushResult(status, plan.repo_id, done.pull_request_url or page, done.commit, revision, plan)


def create_missing(api: "HfApi", plan: PushPlan, retries: Retries) -> Remote:
    """Create the repository and the branch where they do not exist, and return the repository.

    Raises:
        HubError: They cannot be created, or the visibility is not the requested one.
    """
    if plan.action == "create":
        repeat(
            lambda: api.create_repo(
                plan.repo_id,
                private=plan.private,
                exist_ok=True,
                repo_type=plan.repo_type,
                space_sdk="static" if plan.repo_type == "space" else None,
            ),
            "Creating the repository",
            plan.repo_id,
            retries,
        )
        created = read_remote(api, plan.repo_id, None, retries, plan.repo_type)
        if plan.private is not None and created.private != plan.private:
            raise HubError(
                f"{plan.repo_id} was created, but is {'private' if created.private else 'public'}; the other "
                "visibility was requested, and no file was sent. Change it on its settings page and push again."
            )
        if not created.is_blank:
            raise refuse_content(created, plan.repo_id)
    else:
        created = Remote(True, bool(plan.private), plan.parent)
    if plan.revision is not None:
        repeat(
            lambda: api.create_branch(plan.repo_id, branch=str(plan.revision), exist_ok=True),
            f"Creating the branch {plan.revision}",
            plan.repo_id,
            retries,
        )
    return created


def read_back(api: "HfApi", plan: PushPlan, done: Committed, retries: Retries) -> None:
    """Compare the commit with the plan. A ``.gitignore`` in the repository drops files without an error.

    Raises:
        HubError: It has other files (the message names them), or could not be read.
    """
    doing = f"The commit {done.commit} was made, but reading it back"
    files = repeat(lambda: read_files(api, plan.repo_id, done.commit, plan.repo_type), doing, plan.repo_id, retries)
    found = Remote(True, head=done.commit, files=files)
    wrong = [file.path for file in found.changed(plan.files)] + sorted(set(plan.deleted) & set(found.files))
    if wrong:
        raise HubError(
            f"Commit {done.commit} of {plan.repo_id} differs from the files that were sent: {', '.join(wrong)} have "
            "other content or are missing. A .gitignore in the repository may drop them; delete it there and push "
            "again with --overwrite."
        )
