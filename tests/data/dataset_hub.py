"""The part of the Hub that reading a data set needs, on 127.0.0.1: real HTTP, standard library only."""

import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"


class DatasetHub(ThreadingHTTPServer):
    """Serves data sets, each a dict from path to bytes, at one commit (:data:`SHA`)."""

    daemon_threads = True

    def __init__(self, datasets: dict[str, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.datasets = datasets
        self.requests: list[str] = []

    def __enter__(self) -> "DatasetHub":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Return the environment of a child process that knows no other Hub."""
        keep = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        own = {"HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}", "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        return {**keep, **own, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "OMP_NUM_THREADS": "1"}


class _Handler(BaseHTTPRequestHandler):
    server: DatasetHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        found = re.fullmatch(
            r"/(api/)?datasets/([\w-]+/[\w-]+)(?:/(revision|tree|resolve|paths-info)/([^/]+)(?:/(.*))?)?", path
        )
        files = self.server.datasets.get(found.group(2)) if found else None
        if found is None or files is None or found.group(4) not in (None, "main", SHA):
            self._refuse("RepoNotFound" if files is None else "RevisionNotFound")
            return
        kind, rest = found.group(3), found.group(5) or ""
        if kind == "resolve":
            self._send_file(files, rest)
        elif kind == "tree":
            self._json([entry for entry in _entries(files) if entry["path"].startswith(f"{rest}/" if rest else "")])
        elif kind == "paths-info":
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["paths"]
            self._json([entry for entry in _entries(files) if entry["path"] in asked])
        else:
            siblings = [{"rfilename": name} for name in files]
            self._json({"id": found.group(2), "sha": SHA, "siblings": siblings, "private": False, "tags": []})

    do_HEAD = do_POST = do_GET

    def _send_file(self, files: dict[str, bytes], path: str) -> None:
        if path not in files:
            self._refuse("EntryNotFound")
            return
        data, status, headers = files[path], 200, {}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if span:
            first, last = int(span.group(1)), min(int(span.group(2) or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        self._send(status, data, {"ETag": f'"{_oid(files[path])}"', "Accept-Ranges": "bytes", **headers})

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, code: str) -> None:
        self._send(404, b"{}", {"X-Error-Code": code, "X-Error-Message": "not here"})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), "X-Repo-Commit": SHA, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _entries(files: dict[str, bytes]) -> list[dict[str, Any]]:
    folders = {str(parent) for path in files for parent in Path(path).parents if str(parent) != "."}
    entries: list[dict[str, Any]] = [
        {"type": "directory", "path": path, "oid": _oid(path.encode())} for path in folders
    ]
    return entries + [
        {"type": "file", "path": path, "oid": _oid(data), "size": len(data)} for path, data in files.items()
    ]


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
