"""A repository with commits, branches, tags and pull requests, in memory."""

import datetime
import hashlib
from dataclasses import dataclass, field

from .serving import Refusal


def now() -> str:
    """The time, as the Hub writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass(frozen=True)
class Entry:
    """One file at one commit."""

    data: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        """The name of the content in LFS."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git_oid(self) -> str:
        """The name git gives the blob: of the content, or of the LFS pointer."""
        data = self.data
        if self.lfs:
            head = "version https://git-lfs.github.com/spec/v1"
            data = f"{head}\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        """The value by which the client detects that nothing changed."""
        return self.sha256 if self.lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    """One commit: the whole tree, and where it came from."""

    sha: str
    title: str
    message: str
    author: str
    date: str
    files: dict[str, Entry]
    parent: str | None


@dataclass
class PullRequest:
    """A pull request, whose head is the ref ``refs/pr/{number}``."""

    number: int
    title: str
    author: str
    created: str
    status: str = "draft"


@dataclass
class Repository:
    """One model repository, or a Space, whose id begins with "spaces/"."""

    id: str
    private: bool = False
    gated: bool = False
    allowed: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, PullRequest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        attributes = Entry(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")
        files = {".gitattributes": attributes}
        if self.is_space:
            files["README.md"] = Entry(b"---\ntitle: New\nsdk: static\n---\n")
        self.commit("refs/heads/main", files, "initial commit", "", self.namespace)

    @property
    def is_space(self) -> bool:
        """Whether it is a Space."""
        return self.id.startswith("spaces/")

    @property
    def namespace(self) -> str:
        """The user or organisation it belongs to."""
        return self.id.removeprefix("spaces/").partition("/")[0]

    def ref_of(self, revision: str) -> str | None:
        """Return the full name of the branch or pull request that ``revision`` names, if it names one."""
        names = (revision, f"refs/heads/{revision}")
        return next((name for name in names if name in self.refs), None)

    def resolve(self, revision: str) -> Commit:
        """Return the commit that a branch, tag, pull request or commit id names."""
        ref = self.ref_of(revision)
        sha = self.refs[ref] if ref else self.tags.get(revision, revision)
        if sha not in self.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    @property
    def head(self) -> Commit:
        """The head of the main branch."""
        return self.commits[self.refs["refs/heads/main"]]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Return path to content at ``revision``."""
        return {path: entry.data for path, entry in self.resolve(revision).files.items()}

    def commit(self, ref: str, files: dict[str, Entry], title: str, message: str, author: str) -> Commit:
        """Put a commit with the tree ``files`` on top of ``ref``, which may be new."""
        parent = self.refs.get(ref)
        tree = "\n".join(f"{path} {entry.git_oid}" for path, entry in sorted(files.items()))
        text = f"{tree}\n{parent}\n{title}\n{len(self.commits)}"
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = Commit(sha, title, message, author, now(), dict(files), parent)
        self.refs[ref] = sha
        return self.commits[sha]

    def history(self, revision: str) -> list[Commit]:
        """Return the commits reachable from ``revision``, the newest first."""
        commits = [self.resolve(revision)]
        while parent := commits[-1].parent:
            commits.append(self.commits[parent])
        return commits

    def open_pull_request(self, title: str, author: str) -> PullRequest:
        """Open a pull request on main; its ref starts at the head."""
        number = len(self.pulls) + 1
        self.pulls[number] = PullRequest(number, title, author, now())
        self.refs[f"refs/pr/{number}"] = self.head.sha
        return self.pulls[number]
