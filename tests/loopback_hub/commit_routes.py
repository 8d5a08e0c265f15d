"""Uploads: preupload, the LFS batch, the commit. Requests that the Hub refuses are refused here."""

import base64
import binascii
import fnmatch
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from .access import openable, writable
from .card_rules import card_data, check_card
from .cas_routes import token_response
from .repository import Entry, Repository
from .serving import API, ID, Refusal, Request, Response, Routes, api_of, json_response

routes = Routes()
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".onnx", ".npz", ".parquet", ".msgpack")
REGULAR_LIMIT = 10 << 20
SECRET = re.compile(rb"hf_[A-Za-z]{34}(?![A-Za-z0-9])")


def _is_text(data: bytes) -> bool:
    try:
        return b"\0" not in data and data.decode() is not None
    except UnicodeDecodeError as error:
        return error.start >= len(data) - 3 and b"\0" not in data  # a sample may end within a character


def _ignored(path: str, patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path.split("/")[-1], pattern) for pattern in patterns)


@routes.add("POST", rf"{API}{ID}/preupload/(?P<revision>[^/]+)")
def preupload(request: Request, repo_id: str, revision: str) -> Response:
    """Answer for each file how it is sent, whether it is ignored, and its present content."""
    repository, _ = writable(request, repo_id, pull_request=bool(request.query.get("create_pr")))
    files = repository.resolve(unquote(revision)).files
    body = request.json()
    ignore = files.get(".gitignore")
    text = body.get("gitIgnore") or (ignore.data.decode() if ignore else "")
    patterns = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    answers = []
    for file in body["files"]:
        path, sample = file["path"], base64.b64decode(file["sample"])
        large = path.endswith(LFS_SUFFIXES) or file["size"] > REGULAR_LIMIT or not _is_text(sample)
        answer = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": _ignored(path, patterns)}
        if path in files:
            answer["oid"] = files[path].etag
        answers.append(answer)
    return json_response({"files": answers, "commitOid": repository.resolve(unquote(revision)).sha})


@routes.add("POST", rf"/{ID}\.git/info/lfs/objects/batch")
def lfs_batch(request: Request, repo_id: str) -> Response:
    """Answer where each LFS object is uploaded, or that Xet is used; existing objects need no upload.

    huggingface_hub 2 asks for Xet elsewhere; clients before it, and the one in JavaScript, ask here.
    """
    writable(request, repo_id, pull_request=True)
    body = request.json()
    transfer = "xet" if request.hub.xet and "xet" in body.get("transfers", []) else "basic"
    actions = _xet_actions if transfer == "xet" else _lfs_actions
    objects = []
    for wanted in body["objects"]:
        answer: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in request.hub.blobs:
            answer["actions"] = actions(request, repo_id, wanted["oid"], wanted["size"])
        objects.append(answer)
    return json_response({"transfer": transfer, "objects": objects})


def _xet_actions(request: Request, repo_id: str, oid: str, size: int) -> dict[str, Any]:
    token = token_response(request, repo_id, "write")
    header = {name: value for name, value in token.headers.items() if name.startswith("X-Xet")}
    return {"upload": {"href": f"{api_of(request.hub.url, repo_id)}/xet-write-token/main", "header": header}}


def _lfs_actions(request: Request, repo_id: str, oid: str, size: int) -> dict[str, Any]:
    hub = request.hub
    upload: dict[str, Any] = {"href": f"{hub.blob_url}/blobs/{oid}?signature={hub.signature}"}
    if hub.multipart_bytes and size > hub.multipart_bytes:
        part, count = f"{hub.blob_url}/parts/{oid}", -(-size // hub.multipart_bytes)
        upload["href"] = f"{part}?signature={hub.signature}"
        numbered = {f"{number:05d}": f"{part}/{number}?signature={hub.signature}" for number in range(1, count + 1)}
        upload["header"] = {"chunk_size": str(hub.multipart_bytes), **numbered}
    return {"upload": upload, "verify": {"href": f"{hub.url}/{repo_id}.git/info/lfs/verify"}}


@routes.add("POST", rf"/{ID}\.git/info/lfs/verify")
def lfs_verify(request: Request, repo_id: str) -> Response:
    """Confirm that an object arrived."""
    writable(request, repo_id, pull_request=True)
    body = request.json()
    if len(request.hub.blobs.get(body["oid"], b"")) != body["size"]:
        raise Refusal(404, "the object did not arrive")
    return json_response({})


@dataclass
class _Change:
    """The changes of a commit."""

    title: str = ""
    message: str = ""
    parent: str | None = None
    added: dict[str, Entry] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)


@routes.add("POST", rf"{API}{ID}/commit/(?P<revision>[^/]+)")
def commit(request: Request, repo_id: str, revision: str) -> Response:
    """Commit, all or nothing."""
    if len(request.body) > request.hub.body_limit:
        raise Refusal(413, "Payload Too Large")
    opens_pull_request = bool(request.query.get("create_pr"))
    repository, user = writable(request, repo_id, pull_request=opens_pull_request)
    base = repository.resolve(unquote(revision))
    ref = repository.ref_of(unquote(revision))
    change = _read_change(request)
    if change.parent and not base.sha.startswith(change.parent):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    files = _apply(base.files, change)
    _check_storage(request, repository, change)
    if repository.is_space and card_data(files["README.md"].data.decode()).get("sdk") != "static":
        raise Refusal(400, "Missing configuration in README: sdk")
    if opens_pull_request:
        pull = repository.open_pull_request(change.title, user.name)
        ref = f"refs/pr/{pull.number}"
    elif ref is None:
        raise Refusal(400, f"{unquote(revision)} is not a branch")
    made = repository.commit(ref, files, change.title, change.message, user.name)
    body = {"success": True, "commitOid": made.sha, "commitUrl": f"{request.hub.url}/{repo_id}/commit/{made.sha}"}
    if opens_pull_request:
        body["pullRequestUrl"] = f"{request.hub.url}/{repo_id}/discussions/{pull.number}"
    return json_response(body)


def _read_change(request: Request) -> _Change:
    change = _Change()
    for line in request.body.splitlines():
        item = json.loads(line)
        key, value = item["key"], item["value"]
        if key == "header":
            change.title, change.message = value["summary"], value.get("description", "")
            change.parent = value.get("parentCommit")
        elif key == "file":
            change.added[value["path"]] = _regular(request, value)
        elif key == "lfsFile":
            if value["oid"] not in request.hub.blobs:
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
            change.added[value["path"]] = Entry(request.hub.blobs[value["oid"]], lfs=True)
        elif key in ("deletedFile", "deletedFolder"):
            change.deleted.append(value["path"] + ("/" if key == "deletedFolder" else ""))
        else:
            raise Refusal(400, f"unknown operation {key}")
    if not change.title:
        raise Refusal(400, "a commit needs a summary")
    return change


def _regular(request: Request, value: dict[str, Any]) -> Entry:
    path = value["path"]
    if path.startswith(("/", ".git/")) or ".." in path.split("/"):
        raise Refusal(400, f"Invalid path: {path}")
    try:
        data = base64.b64decode(value["content"], validate=True)
    except binascii.Error:
        raise Refusal(400, f"{path} is not base64") from None
    if len(data) > REGULAR_LIMIT:
        raise Refusal(400, f"Your push was rejected because {path} is larger than 10 MiB; use LFS or Xet")
    if not _is_text(data):
        raise Refusal(400, f"Your push was rejected because {path} is a binary file; use LFS or Xet")
    if SECRET.search(data) or any(token.encode() in data for token in request.hub.users):
        raise Refusal(400, f"Your push was rejected because {path} contains valid Hugging Face secrets")
    if path == "README.md" and (errors := check_card(data.decode())[0]):
        raise Refusal(400, f"Invalid metadata in README.md: {errors[0]}")
    return Entry(data)


def _apply(files: dict[str, Entry], change: _Change) -> dict[str, Entry]:
    files = dict(files)
    for path in change.deleted:
        gone = [name for name in files if name == path or (path.endswith("/") and name.startswith(path))]
        if not gone:
            raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for name in gone:
            del files[name]
    return {**files, **change.added}


def _check_storage(request: Request, repository: Repository, change: _Change) -> None:
    limit = request.hub.storage_limit
    new = sum(len(entry.data) for entry in change.added.values())
    if limit is not None and request.hub.stored_bytes(repository.namespace) + new > limit:
        raise Refusal(403, "Storage limit reached, please upgrade your plan or delete files")


@routes.add("GET", rf"{API}{ID}/compare/(?P<spec>.+)")
def compare(request: Request, repo_id: str, spec: str) -> Response:
    """Name the files that differ between two revisions (tests only)."""
    repository = openable(request, repo_id)
    left, right = (repository.resolve(unquote(name)).files for name in spec.split("...")[:2])
    names = [path for path in {*left, *right} if left.get(path) != right.get(path)]
    return json_response({"files": sorted(names), "digest": hashlib.sha256("".join(names).encode()).hexdigest()})
