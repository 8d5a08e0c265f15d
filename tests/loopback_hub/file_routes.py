"""Downloads: the answers of ``resolve`` for regular, LFS and Xet files."""

from urllib.parse import quote, unquote

from .access import openable
from .serving import ID, Refusal, Request, Response, Routes, api_of, ranged

routes = Routes()


@routes.add("GET HEAD", rf"/{ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(request: Request, repo_id: str, revision: str, path: str) -> Response:
    """Serve a regular file; send elsewhere for one in LFS or Xet."""
    hub = request.hub
    commit = openable(request, repo_id).resolve(unquote(revision))
    entry = commit.files.get(unquote(path))
    if entry is None:
        refusal = Refusal(404, "Entry not found", "EntryNotFound").response()
        refusal.headers["X-Repo-Commit"] = commit.sha
        return refusal
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{entry.etag}"'}
    if not entry.lfs:
        return ranged(entry.data, request.headers.get("Range"), {**headers, "Content-Type": "text/plain"})
    sha256 = entry.sha256
    headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(entry.data))}
    headers["Location"] = f"{hub.blob_url}/blobs/{sha256}?signature={hub.signature}"
    if hub.xet and sha256 in hub.xet_names:
        headers["X-Xet-Hash"] = hub.xet_names[sha256]
        token = f"{api_of(hub.url, quote(repo_id))}/xet-read-token/{commit.sha}"
        headers["Link"] = f'<{token}>; rel="xet-auth"'
    hub.blobs.setdefault(sha256, entry.data)
    return Response(302, b"", headers)


@routes.add("GET HEAD", rf"/{ID}/raw/(?P<revision>[^/]+)/(?P<path>.+)")
def raw(request: Request, repo_id: str, revision: str, path: str) -> Response:
    """Serve a regular file as it is."""
    entry = openable(request, repo_id).resolve(unquote(revision)).files.get(unquote(path))
    if entry is None:
        raise Refusal(404, "Entry not found", "EntryNotFound")
    return ranged(entry.data, request.headers.get("Range"), {})
