"""The HTTP half: reading requests, the log, faults, routing, answers with ranges."""

import json
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from .faults import Fault

if TYPE_CHECKING:
    from .server import LoopbackHub


@dataclass
class LoggedRequest:
    """One request as the log keeps it: who, never the token."""

    number: int
    origin: str
    method: str
    path: str
    who: str
    authorization: bool
    user_agent: str
    body_bytes: int
    status: int = 0
    fault: str | None = None

    def __str__(self) -> str:
        note = f" [{self.fault}]" if self.fault else ""
        return f"{self.number:3d} {self.origin:4s} {self.method:4s} {self.path} -> {self.status} ({self.who}){note}"


@dataclass
class Request:
    """One request, read to its end."""

    hub: "LoopbackHub"
    origin: str
    method: str
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes

    @property
    def token(self) -> str | None:
        """The bearer token, or None."""
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return token or None if scheme.lower() == "bearer" else None

    def json(self) -> Any:
        """The body as JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise Refusal(400, "the body is not JSON") from None


@dataclass
class Response:
    """An answer."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """A refusal, with the headers from which the client reads the reason."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more

    def response(self) -> Response:
        """Return it as an answer."""
        headers = {"X-Error-Message": self.message.splitlines()[0]}
        if self.code:
            headers["X-Error-Code"] = self.code
        return json_response({"error": self.message, **self.more}, self.status, headers)


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return ``value`` as a JSON answer."""
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


def ranged(data: bytes, header: str | None, headers: dict[str, str]) -> Response:
    """Return ``data``, or the part of it that the ``Range`` header asks for."""
    headers = {"Accept-Ranges": "bytes", **headers}
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", header or "")
    if not match:
        return Response(200, data, headers)
    first = int(match[1])
    last = min(int(match[2]) if match[2] else len(data) - 1, len(data) - 1)
    if first > last:
        return Response(416, b"", {"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    return Response(206, data[first : last + 1], headers)


# The id of a Space begins with "spaces/", as its address does; that of a model has no prefix.
ID = r"(?P<repo_id>(?:spaces/)?[^/]+/[^/]+)"
# The beginning of a path of the JSON interface, before the id.
API = r"/api/(?:models/|(?=spaces/))"


def api_of(url: str, repo_id: str) -> str:
    """Return the address of a repository in the JSON interface."""
    return f"{url}/api/{repo_id if repo_id.startswith('spaces/') else f'models/{repo_id}'}"


View = Callable[..., Response]


class Routes:
    """The routes of one origin: method and a pattern over the path, tried in the order of definition."""

    def __init__(self) -> None:
        self._routes: list[tuple[str, re.Pattern[str], View]] = []

    def add(self, methods: str, pattern: str) -> Callable[[View], View]:
        """Register a view for ``methods`` (separated by blanks) at ``pattern`` (a regular expression)."""

        def register(view: View) -> View:
            for method in methods.split():
                self._routes.append((method, re.compile(pattern), view))
            return view

        return register

    def dispatch(self, request: Request) -> Response:
        """Answer ``request``."""
        for method, pattern, view in self._routes:
            match = pattern.fullmatch(request.path)
            if match and method == request.method:
                return view(request, **match.groupdict())
        raise Refusal(404, f"no such route: {request.method} {request.path}")


class Handler(BaseHTTPRequestHandler):
    """Reads one request to its end, logs it, lets a fault happen, answers."""

    protocol_version = "HTTP/1.1"
    server: "Origin"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: the log is ours."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _read_body(self) -> bytes:
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self) -> None:
        hub, origin = self.server.hub, self.server.name
        parts = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        request = Request(hub, origin, self.command, parts.path, query, self.headers, self._read_body())
        entry = hub.write_log(request, self.path)
        fault = hub.faults.at(origin, self.command, self.path)
        if fault:
            entry.fault = fault.kind
        if fault and fault.kind == "drop":
            self._hang_up(fault)
        elif fault and fault.kind == "status":
            refusal = Refusal(fault.status, fault.message).response()
            refusal.headers.update(fault.headers)
            entry.status = refusal.status
            self._send(refusal)
        else:
            if fault and fault.kind == "meanwhile" and fault.then:
                fault.then()
            response = self._work(request)
            entry.status = response.status
            if fault and fault.kind == "lose_answer":
                self._hang_up(fault)
            else:
                self._send(response, fault)

    def _work(self, request: Request) -> Response:
        try:
            with request.hub.lock:
                return self.server.routes.dispatch(request)
        except Refusal as refusal:
            return refusal.response()

    def _send(self, response: Response, fault: Fault | None = None) -> None:
        self.send_response(response.status)
        headers = {"Content-Length": str(len(response.body)), **response.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and fault.kind == "cut_body":
            self.wfile.write(response.body[: fault.keep_bytes])
            self.wfile.flush()
            self._hang_up(fault)
        else:
            self.wfile.write(response.body)

    def _hang_up(self, fault: Fault) -> None:
        if fault.then:
            fault.then()
        self.close_connection = True
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RDWR)


class Origin(ThreadingHTTPServer):
    """One of the three servers."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, hub: "LoopbackHub", name: str, routes: Routes) -> None:
        self.hub, self.name, self.routes = hub, name, routes
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about clients that were killed; anything else is a bug of the fixture, and is kept."""
        import sys

        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, OSError)):
            self.hub.bugs.append(error)
