"""The fixture itself: state, users, origins, environment for child processes."""

import os
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from . import api_routes, blob_routes, cas_routes, commit_routes, file_routes, job_routes
from .faults import Fault, FaultBook
from .repository import Repository
from .serving import LoggedRequest, Origin, Request, Routes
from .xet_format import Chunk, FileRecipe


@dataclass(frozen=True)
class User:
    """A user: the token is random per run, the role limits the token."""

    name: str
    token: str
    role: str = "write"
    organizations: tuple[str, ...] = ()

    def owns(self, namespace: str) -> bool:
        """Return whether the user may write below ``namespace``."""
        return namespace == self.name or namespace in self.organizations


class _HubRoutes(Routes):
    def dispatch(self, request: Request) -> Any:
        from .serving import Refusal

        for part in (api_routes.routes, commit_routes.routes, job_routes.routes, file_routes.routes):
            try:
                return part.dispatch(request)
            except Refusal as refusal:
                if not refusal.message.startswith("no such route"):
                    raise
        raise Refusal(404, f"no such route: {request.method} {request.path}")


class LoopbackHub:
    """A Hub on three ports of 127.0.0.1; a context manager.

    Args:
        xet: Whether it has Xet (as the real Hub, by default) or only LFS.
        multipart_bytes: LFS objects above this size are asked for in parts of it; None: never.
        storage_limit: Bytes that the repositories of a namespace may hold; None: no limit.
        body_limit: Bytes that the body of a commit may have before it is refused with 413.
    """

    def __init__(
        self,
        *,
        xet: bool = True,
        multipart_bytes: int | None = None,
        storage_limit: int | None = None,
        body_limit: int = 1 << 28,
    ) -> None:
        self.xet, self.multipart_bytes = xet, multipart_bytes
        self.storage_limit, self.body_limit = storage_limit, body_limit
        self.lock = threading.RLock()
        self.faults = FaultBook()
        self.log: list[LoggedRequest] = []
        self.bugs: list[Any] = []
        self.repositories: dict[str, Repository] = {}
        self.users: dict[str, User] = {}
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.xorbs: dict[str, tuple[bytes, list[Chunk]]] = {}
        self.xet_files: dict[str, FileRecipe] = {}
        self.xet_names: dict[str, str] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.cas_tokens: dict[str, tuple[str, str]] = {}
        self.signature = secrets.token_hex(8)
        self._origins = [
            Origin(self, "hub", _HubRoutes()),
            Origin(self, "blob", blob_routes.routes),
            Origin(self, "cas", cas_routes.routes),
        ]
        self.url, self.blob_url, self.cas_url = (origin.url for origin in self._origins)

    def __enter__(self) -> "LoopbackHub":
        for origin in self._origins:
            thread = threading.Thread(target=origin.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for origin in self._origins:
            origin.shutdown()
            origin.server_close()
        if self.bugs and error is None:
            raise self.bugs[0]

    def reset(self, *, stores: bool = False) -> None:
        """Forget repositories, faults and the log; users are kept, and the content of the stores unless ``stores``."""
        with self.lock:
            self.repositories.clear()
            self.log.clear()
            self.faults.clear()
            for store in (self.blobs, self.parts, self.xorbs, self.xet_files, self.xet_names) if stores else ():
                store.clear()

    def new_secret(self, prefix: str) -> str:
        """Return a random secret that no user has."""
        alphabet = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
        return f"{prefix}_" + "".join(secrets.choice(alphabet) for _ in range(34))

    def add_user(self, name: str, role: str = "write", organizations: tuple[str, ...] = ()) -> User:
        """Add a user, or another token of a user."""
        user = User(name, self.new_secret("hf"), role, organizations)
        self.users[user.token] = user
        return user

    def user_of(self, token: str) -> User | None:
        """Return whose token it is."""
        return self.users.get(token)

    def create(self, repo_id: str, *, private: bool = False, gated: bool = False) -> Repository:
        """Create a repository from the outside, as the web page would."""
        self.repositories[repo_id] = Repository(repo_id, private=private, gated=gated)
        return self.repositories[repo_id]

    def fail(self, kind: str, at: int | None = None, **options: Any) -> Fault:
        """Set a fault; see :class:`Fault`."""
        return self.faults.add(Fault(kind, at, **options))

    def write_log(self, request: Request, path: str) -> LoggedRequest:
        """Log a request: who asks, never the token."""
        user = self.users.get(request.token or "")
        who = f"{user.name}:{user.role}" if user else "a CAS token" if request.token else "nobody"
        with self.lock:
            entry = LoggedRequest(
                number=len(self.log) + 1,
                origin=request.origin,
                method=request.method,
                path=path.replace(self.signature, "..."),
                who=who,
                authorization=request.headers.get("Authorization") is not None,
                user_agent=request.headers.get("User-Agent") or "",
                body_bytes=len(request.body),
            )
            self.log.append(entry)
        return entry

    def stored_bytes(self, namespace: str) -> int:
        """Return how many bytes the heads of the repositories of ``namespace`` hold."""
        mine = [repository for repository in self.repositories.values() if repository.namespace == namespace]
        return sum(len(data) for repository in mine for data in repository.files().values())

    def environment(self, home: Path, token: str | None = None, **more: str) -> dict[str, str]:
        """Return the environment for a child process: nothing of ``HF_*`` is inherited."""
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        keep.pop("PYTHONWARNINGS", None)
        own = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_XET_CACHE": str(home / "xet"),
            "HF_HUB_DISABLE_XET": "0" if self.xet else "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "OMP_NUM_THREADS": "1",
        }
        if token is not None:
            own["HF_TOKEN"] = token
        return {**keep, **own, **more}
