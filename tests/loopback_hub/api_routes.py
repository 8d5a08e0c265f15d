"""The Hub's JSON interface: users, repositories, trees, refs, pull requests."""

import posixpath
import re
from typing import Any
from urllib.parse import parse_qs, unquote

from .access import caller, openable, readable, writable
from .card_rules import card_data, check_card
from .cas_routes import token_response
from .repository import Entry, PullRequest, Repository
from .serving import API, ID, Refusal, Request, Response, Routes, json_response

routes = Routes()
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}")


@routes.add("GET", r"/api/whoami-v2")
def whoami(request: Request) -> Response:
    """Return the owner of the token."""
    user = caller(request, needed=True)
    assert user is not None
    organizations = [{"name": name, "type": "org"} for name in user.organizations]
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role}}
    return json_response({"type": "user", "name": user.name, "orgs": organizations, "auth": token})


@routes.add("GET", r"/api/agent-harnesses")
def harnesses(request: Request) -> Response:
    """Answer the client's daily question with nothing."""
    return json_response({})


@routes.add("POST", r"/api/repos/create")
def create_repository(request: Request) -> Response:
    """Create a repository in a namespace that the caller may write to."""
    user = caller(request, needed=True)
    assert user is not None
    body = request.json()
    name, namespace = body["name"], body.get("organization") or user.name
    kind = body.get("type", "model")
    if kind not in ("model", "space"):
        raise Refusal(400, "this Hub has models and Spaces only")
    if kind == "space" and body.get("sdk") != "static":
        raise Refusal(402, "Payment required: only static Spaces are free")
    repo_id = f"{'spaces/' if kind == 'space' else ''}{namespace}/{name}"
    if not NAME.fullmatch(name) or ".." in name or "--" in name:
        raise Refusal(400, f"Invalid repo name: {name}")
    if user.role != "write":
        raise Refusal(403, "You don't have the rights to create a model under the namespace")
    if not user.owns(namespace):
        raise Refusal(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
    url = f"{request.hub.url}/{repo_id}"
    if repo_id in request.hub.repositories:
        raise Refusal(409, f"You already created this {kind} repo", url=url)
    private = body.get("visibility") == "private" or bool(body.get("private"))
    request.hub.create(repo_id, private=private)
    return json_response({"url": url, "name": repo_id})


@routes.add("POST", r"/api/validate-yaml")
def validate_yaml(request: Request) -> Response:
    """Check the metadata of a card."""
    errors, warnings = check_card(request.json().get("content", ""))
    body = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return json_response(body, 400 if errors else 200)


@routes.add("GET", r"/api/models")
def search(request: Request) -> Response:
    """List the models that the caller may see and whose names hold the given words."""
    user = caller(request)
    words = request.query.get("search", "").lower()
    found = [
        repository
        for repository in request.hub.repositories.values()
        if words in repository.id.lower() and (not repository.private or (user and user.owns(repository.namespace)))
    ]
    rows = [{"_id": "0", "id": one.id, "modelId": one.id, "private": one.private, "tags": []} for one in found]
    return json_response(rows[: int(request.query.get("limit", "50"))])


@routes.add("GET", rf"{API}{ID}")
@routes.add("GET", rf"{API}{ID}/revision/(?P<revision>[^/]+)")
def model_info(request: Request, repo_id: str, revision: str = "main") -> Response:
    """Describe a repository at a revision."""
    repository = readable(request, repo_id)
    commit = repository.resolve(unquote(revision))
    card = commit.files.get("README.md")
    data = card_data(card.data.decode("utf-8", "replace")) if card else {}
    tags = data.get("tags")
    return json_response(
        {
            "_id": "0",
            "id": repo_id.removeprefix("spaces/"),
            **({"sdk": "static"} if repository.is_space else {"modelId": repo_id}),
            "author": repository.namespace,
            "sha": commit.sha,
            "lastModified": commit.date,
            "createdAt": repository.history("main")[-1].date,
            "private": repository.private,
            "gated": "manual" if repository.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": tags if isinstance(tags, list) else [],
            "cardData": data,
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
        }
    )


@routes.add("GET", rf"{API}{ID}/auth-check(/(?P<action>write))?")
def auth_check(request: Request, repo_id: str, action: str | None = None) -> Response:
    """Answer whether the caller may read (or write)."""
    if action:
        writable(request, repo_id)
    else:
        openable(request, repo_id)
    return json_response({})


def _row(request: Request, path: str, entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": path, "size": len(entry.data), "oid": entry.git_oid}
    if entry.lfs:
        row["lfs"] = {"oid": entry.sha256, "size": len(entry.data), "pointerSize": 134}
        if request.hub.xet and entry.sha256 in request.hub.xet_names:
            row["xetHash"] = request.hub.xet_names[entry.sha256]
    return row


def _directories(paths: list[str]) -> list[str]:
    found = set()
    for path in paths:
        while path := posixpath.dirname(path):
            found.add(path)
    return sorted(found)


@routes.add("GET", rf"{API}{ID}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?")
def tree(request: Request, repo_id: str, revision: str, folder: str | None = None) -> Response:
    """List the files of a revision, in pages of at most 50."""
    files = openable(request, repo_id).resolve(unquote(revision)).files
    directories = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in _directories([*files])]
    rows = directories + [_row(request, path, entry) for path, entry in sorted(files.items())]
    prefix = f"{unquote(folder)}/" if folder else ""
    rows = [row for row in rows if row["path"].startswith(prefix)]
    if request.query.get("recursive", "false").lower() != "true":
        rows = [row for row in rows if "/" not in row["path"][len(prefix) :]]
    start = int(request.query.get("cursor", "0"))
    headers = {}
    if start + 50 < len(rows):
        more = f"recursive={request.query.get('recursive', 'false')}&cursor={start + 50}"
        headers["Link"] = f'<{request.hub.url}{request.path}?{more}>; rel="next"'
    return json_response(rows[start : start + 50], headers=headers)


@routes.add("POST", rf"{API}{ID}/paths-info/(?P<revision>[^/]+)")
def paths_info(request: Request, repo_id: str, revision: str) -> Response:
    """Describe some paths of a revision; missing ones are left out."""
    files = openable(request, repo_id).resolve(unquote(revision)).files
    form = (request.headers.get("Content-Type") or "").startswith("application/x-www-form-urlencoded")
    paths = parse_qs(request.body.decode()).get("paths", []) if form else request.json()["paths"]
    rows = [_row(request, path, files[path]) for path in paths if path in files]
    folders = [path for path in paths if path in _directories([*files])]
    return json_response(rows + [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders])


@routes.add("GET", rf"{API}{ID}/refs")
def refs(request: Request, repo_id: str) -> Response:
    """List branches, tags and, when asked for, pull requests."""
    repository = openable(request, repo_id)

    def rows(prefix: str) -> list[dict[str, str]]:
        named = [(ref, sha) for ref, sha in repository.refs.items() if ref.startswith(prefix)]
        return [{"name": ref.removeprefix("refs/heads/"), "ref": ref, "targetCommit": sha} for ref, sha in named]

    tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": sha} for tag, sha in repository.tags.items()]
    body = {"branches": rows("refs/heads/"), "tags": tags, "converts": []}
    if request.query.get("include_prs"):
        body["pullRequests"] = [{**row, "name": row["ref"]} for row in rows("refs/pr/")]
    return json_response(body)


@routes.add("GET", rf"{API}{ID}/commits/(?P<revision>[^/]+)")
def commits(request: Request, repo_id: str, revision: str) -> Response:
    """List the history of a revision."""
    return json_response(
        [
            {
                "id": commit.sha,
                "title": commit.title,
                "message": commit.message,
                "date": commit.date,
                "authors": [{"user": commit.author}],
            }
            for commit in openable(request, repo_id).history(unquote(revision))
        ]
    )


@routes.add("POST", rf"{API}{ID}/branch/(?P<name>[^/]+)")
def create_branch(request: Request, repo_id: str, name: str) -> Response:
    """Create a branch, at the head of main or at the given commit."""
    repository, _ = writable(request, repo_id)
    ref = f"refs/heads/{unquote(name)}"
    if ref in repository.refs:
        raise Refusal(409, f"Reference already exists: {ref}")
    start = (request.json() if request.body else {}).get("startingPoint") or "main"
    repository.refs[ref] = repository.resolve(start).sha
    return json_response({})


@routes.add("POST", rf"{API}{ID}/tag/(?P<revision>[^/]+)")
def create_tag(request: Request, repo_id: str, revision: str) -> Response:
    """Tag a revision."""
    repository, _ = writable(request, repo_id)
    tag = request.json()["tag"]
    if tag in repository.tags:
        raise Refusal(409, f"Tag reference exists already: refs/tags/{tag}")
    repository.tags[tag] = repository.resolve(unquote(revision)).sha
    return json_response({})


@routes.add("POST", rf"{API}{ID}/discussions")
def open_discussion(request: Request, repo_id: str) -> Response:
    """Open a pull request."""
    repository, user = writable(request, repo_id, pull_request=True)
    pull = repository.open_pull_request(request.json()["title"], user.name)
    return json_response({"num": pull.number, "pullRequest": True})


def _discussion(repository: Repository, pull: PullRequest) -> dict[str, Any]:
    return {
        "num": pull.number,
        "title": pull.title,
        "status": pull.status,
        "isPullRequest": True,
        "createdAt": pull.created,
        "author": {"name": pull.author},
        "repo": {"name": repository.id, "type": "model"},
    }


@routes.add("GET", rf"{API}{ID}/discussions")
def discussions(request: Request, repo_id: str) -> Response:
    """List the pull requests."""
    repository = openable(request, repo_id)
    rows = [_discussion(repository, pull) for pull in repository.pulls.values()]
    return json_response({"discussions": rows, "count": len(rows), "start": 0, "numClosedDiscussions": 0})


@routes.add("GET", rf"{API}{ID}/discussions/(?P<number>\d+)")
def discussion(request: Request, repo_id: str, number: str) -> Response:
    """Describe a pull request."""
    repository = openable(request, repo_id)
    pull = repository.pulls.get(int(number))
    if pull is None:
        raise Refusal(404, "no such discussion")
    more = {"events": [], "changes": {"base": "refs/heads/main"}, "filesWithConflicts": [], "diff": ""}
    return json_response({**_discussion(repository, pull), **more})


@routes.add("GET", rf"{API}{ID}/xet-(?P<scope>read|write)-token/(?P<revision>[^/]+)")
def xet_token(request: Request, repo_id: str, scope: str, revision: str) -> Response:
    """Give a token for the CAS."""
    if not request.hub.xet:
        raise Refusal(404, "this Hub has no Xet")
    if scope == "write":
        writable(request, repo_id, pull_request=bool(request.query.get("create_pr")))
    else:
        openable(request, repo_id)
    return token_response(request, repo_id, scope)
