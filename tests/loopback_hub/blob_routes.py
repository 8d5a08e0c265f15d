"""The blob store of LFS, behind signed addresses; a Hub token has no business here and is refused."""

import hashlib

from .serving import Refusal, Request, Response, Routes, json_response, ranged

routes = Routes()


def _check(request: Request) -> None:
    if request.headers.get("Authorization"):
        raise Refusal(400, "only one authentication mechanism is allowed: the address is signed")
    if request.query.get("signature") != request.hub.signature:
        raise Refusal(403, "the signature does not match")


@routes.add("PUT", r"/blobs/(?P<oid>[0-9a-f]{64})")
def put_blob(request: Request, oid: str) -> Response:
    """Store a whole blob, if it hashes to its name."""
    _check(request)
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise Refusal(400, "the content does not hash to its name")
    request.hub.blobs[oid] = request.body
    return Response(200, b"", {"ETag": f'"{oid}"'})


@routes.add("PUT", r"/parts/(?P<oid>[0-9a-f]{64})/(?P<number>\d+)")
def put_part(request: Request, oid: str, number: str) -> Response:
    """Store one part of a blob."""
    _check(request)
    request.hub.parts.setdefault(oid, {})[int(number)] = request.body
    return Response(200, b"", {"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


@routes.add("POST", r"/parts/(?P<oid>[0-9a-f]{64})")
def complete_parts(request: Request, oid: str) -> Response:
    """Put the parts together, if all are here and the whole hashes to its name."""
    _check(request)
    parts = request.hub.parts.get(oid, {})
    for part in request.json()["parts"]:
        held = parts.get(part["partNumber"])
        if held is None or part["etag"].strip('"') != hashlib.md5(held).hexdigest():
            raise Refusal(400, f"part {part['partNumber']} is missing or differs")
    data = b"".join(parts[number] for number in sorted(parts))
    if hashlib.sha256(data).hexdigest() != oid:
        raise Refusal(400, "the parts do not hash to the name of the whole")
    request.hub.blobs[oid] = data
    return json_response({})


@routes.add("GET HEAD", r"/blobs/(?P<oid>[0-9a-f]{64})")
def get_blob(request: Request, oid: str) -> Response:
    """Serve a blob."""
    _check(request)
    if oid not in request.hub.blobs:
        raise Refusal(404, "no such blob")
    return ranged(request.hub.blobs[oid], request.headers.get("Range"), {"ETag": f'"{oid}"'})
