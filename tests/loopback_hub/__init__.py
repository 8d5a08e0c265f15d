"""A Hub on 127.0.0.1 for tests: real HTTP, real refusals, faults on request. Standard library and PyYAML only.

    with LoopbackHub(xet=True) as hub:
        alice = hub.add_user("alice")
        environment = hub.environment(tmp_path, token=alice.token)   # for a child process
        hub.fail("drop", at=3)                                       # the third request from now

The client freezes its endpoint when it is imported, so everything that uses it runs in a child process with
that environment. Three origins are served, each on its own port, as on the real Hub: the Hub itself, the blob
store of LFS, and the content-addressed store (CAS) of Xet.
"""

from .faults import Fault
from .repository import Repository
from .server import LoopbackHub, User
from .serving import LoggedRequest

__all__ = ["Fault", "LoggedRequest", "LoopbackHub", "Repository", "User"]
