"""Permissions: tokens, roles, namespaces, private and gated repositories."""

from typing import TYPE_CHECKING

from .repository import Repository
from .serving import Refusal, Request

if TYPE_CHECKING:
    from .server import User


def caller(request: Request, *, needed: bool = False) -> "User | None":
    """Return the caller by the token; refuse unknown tokens, and anonymous callers where a user is required."""
    if request.token is None:
        if needed:
            raise Refusal(401, "Invalid username or password.")
        return None
    user = request.hub.user_of(request.token)
    if user is None:
        raise Refusal(401, "Invalid credentials in Authorization header")
    return user


def readable(request: Request, repo_id: str) -> Repository:
    """Return the repository, for one who may know that it exists."""
    user = caller(request)
    repository = request.hub.repositories.get(repo_id)
    hidden = repository is not None and repository.private
    if repository is None or (hidden and not (user and user.owns(repository.namespace))):
        raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
    return repository


def openable(request: Request, repo_id: str) -> Repository:
    """Return the repository, for one who may read its files."""
    repository = readable(request, repo_id)
    user = caller(request)
    allowed = user and (user.owns(repository.namespace) or user.name in repository.allowed)
    if repository.gated and not allowed:
        message = f"Access to model {repo_id} is restricted. You must be authenticated and approved to access it."
        raise Refusal(403 if user else 401, message, "GatedRepo")
    return repository


def writable(request: Request, repo_id: str, *, pull_request: bool = False) -> tuple[Repository, "User"]:
    """Return the repository and the caller, for one who may write to it (or open pull requests)."""
    user = caller(request, needed=True)
    assert user is not None
    repository = readable(request, repo_id)
    if user.role != "write":
        raise Refusal(403, "Your token has no write permission for this resource")
    if not pull_request and not user.owns(repository.namespace):
        raise Refusal(403, f"You don't have the rights to write to {repo_id}")
    return repository, user
