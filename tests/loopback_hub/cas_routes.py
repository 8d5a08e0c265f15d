"""The content-addressed store of Xet: xorbs and shards in, reconstructions and ranges of xorbs out.

Names of xorbs are accepted unchecked (checking them needs BLAKE3); the sha256 of every file that a shard
registers is checked over the reconstructed bytes, so nothing wrong can be committed.
"""

import hashlib
import re
import time
from typing import Any

from .serving import Refusal, Request, Response, Routes, json_response, ranged
from .xet_format import FileRecipe, read_shard, read_xorb

routes = Routes()


def token_response(request: Request, repo_id: str, scope: str) -> Response:
    """Answer the Hub's token routes: JSON for hf-xet, headers for huggingface_hub."""
    hub = request.hub
    token = hub.new_secret("xet")
    hub.cas_tokens[token] = (repo_id, scope)
    expires = int(time.time()) + 3600
    body = {"casUrl": hub.cas_url, "accessToken": token, "exp": expires}
    headers = {
        "X-Xet-Cas-Url": hub.cas_url,
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires),
    }
    return json_response(body, headers=headers)


def _authorise(request: Request, scope: str) -> None:
    granted = request.hub.cas_tokens.get(request.token or "")
    if granted is None:
        raise Refusal(401, "unknown CAS token")
    if scope == "write" and granted[1] != "write":
        raise Refusal(403, "this CAS token may only read")


@routes.add("POST", r"/v1/xorbs/default/(?P<name>[0-9a-f]{64})")
def put_xorb(request: Request, name: str) -> Response:
    """Store a xorb."""
    _authorise(request, "write")
    try:
        chunks = read_xorb(request.body)
    except (ValueError, IndexError) as error:
        raise Refusal(400, f"malformed xorb: {error}") from None
    inserted = name not in request.hub.xorbs
    request.hub.xorbs[name] = (request.body, chunks)
    return json_response({"was_inserted": inserted})


@routes.add("POST", r"/v1/shards")
def put_shard(request: Request) -> Response:
    """Register files: assemble each and compare its sha256 with that in the shard."""
    _authorise(request, "write")
    hub = request.hub
    for recipe in read_shard(request.body):
        data = _assemble(request, recipe)
        digest = hashlib.sha256(data).hexdigest()
        if digest != (recipe.sha256 or digest):
            raise Refusal(400, f"a file of the shard hashes to {digest}, which differs from the registered one")
        hub.xet_files[recipe.name] = recipe
        hub.xet_names[digest] = recipe.name
        hub.blobs[digest] = data
    return json_response({"result": 1})


def _assemble(request: Request, recipe: FileRecipe) -> bytes:
    parts = []
    for term in recipe.terms:
        if term.xorb not in request.hub.xorbs:
            raise Refusal(400, f"the shard needs xorb {term.xorb}, which is not here")
        chunks = request.hub.xorbs[term.xorb][1][term.first : term.last]
        parts.append(b"".join(chunk.data for chunk in chunks))
        if len(parts[-1]) != term.length:
            raise Refusal(400, "a term of the shard has another length than its chunks")
    return b"".join(parts)


@routes.add("GET", r"/v1/reconstructions/(?P<name>[0-9a-f]{64})")
def reconstruct(request: Request, name: str) -> Response:
    """Return the chunks and xorbs that make up a file, or the requested range of it."""
    _authorise(request, "read")
    recipe = request.hub.xet_files.get(name)
    if recipe is None:
        raise Refusal(404, "no such file")
    total = sum(term.length for term in recipe.terms)
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
    first = int(match[1]) if match else 0
    last = min(int(match[2]), total - 1) if match and match[2] else total - 1
    if first > last:
        raise Refusal(416, "beyond the end of the file")
    return json_response(_plan(request, recipe, first, last))


def _plan(request: Request, recipe: FileRecipe, first: int, last: int) -> dict[str, Any]:
    terms: list[dict[str, Any]] = []
    fetch: dict[str, list[dict[str, Any]]] = {}
    position, skipped = 0, None
    for term in recipe.terms:
        chunks = request.hub.xorbs[term.xorb][1]
        wanted = []
        for number in range(term.first, term.last):
            end = position + len(chunks[number].data)
            if end > first and position <= last:
                wanted.append(number)
                skipped = first - position if skipped is None else skipped
            position = end
        if not wanted:
            continue
        span = {"start": wanted[0], "end": wanted[-1] + 1}
        length = sum(len(chunks[number].data) for number in wanted)
        terms.append({"hash": term.xorb, "unpacked_length": length, "range": span})
        url_range = {"start": chunks[wanted[0]].start, "end": chunks[wanted[-1]].end - 1}
        url = f"{request.hub.cas_url}/xorbs/{term.xorb}?signature={request.hub.signature}"
        entry = {"range": span, "url": url, "url_range": url_range}
        if entry not in fetch.setdefault(term.xorb, []):
            fetch[term.xorb].append(entry)
    return {"offset_into_first_range": skipped or 0, "terms": terms, "fetch_info": fetch}


@routes.add("GET", r"/xorbs/(?P<name>[0-9a-f]{64})")
def get_xorb(request: Request, name: str) -> Response:
    """Serve a range of a xorb behind a signed address."""
    if request.headers.get("Authorization"):
        raise Refusal(400, "only one authentication mechanism is allowed: the address is signed")
    if request.query.get("signature") != request.hub.signature:
        raise Refusal(403, "the signature does not match")
    return ranged(request.hub.xorbs[name][0], request.headers.get("Range"), {})
