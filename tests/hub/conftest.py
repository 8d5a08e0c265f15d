"""One checkpoint for all; a Hub with Xet and one without, each with a client that lives as long as the tests do.

A client takes half a second to start and its endpoint is frozen, so Hubs and clients are shared, and the Hub
forgets its repositories between two tests.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hub.helpers import BASE_CARD, BASE_REVISION, Client, make_checkpoint
from tests.loopback_hub import LoopbackHub, User
from tests.loopback_hub.repository import Entry


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pruned ViT whose layers differ; not to be changed."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "pruned-vit")


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another one, with other weights, in shards; not to be changed."""
    return make_checkpoint(tmp_path_factory.mktemp("other") / "pruned-vit", seed=1, shards=True)


class Site:
    """A Hub with its user and, from the first use, the client."""

    def __init__(self, xet: bool, home: Path, stack: ExitStack) -> None:
        self.hub = stack.enter_context(LoopbackHub(xet=xet))
        self.alice = self.hub.add_user("alice", organizations=("atelier",))
        self.home, self.stack = home, stack
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        if self._client is None or self._client.process.poll() is not None:
            self._client = self.stack.enter_context(Client(self.hub, self.home, self.alice.token))
        return self._client

    def fresh(self) -> "Site":
        """Remove the repositories of earlier tests, and add the base model."""
        self.hub.reset()
        add_base_model(self.hub)
        return self


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bool, Site]]:
    with ExitStack() as stack:
        yield {xet: Site(xet, tmp_path_factory.mktemp("home"), stack) for xet in (True, False)}


@pytest.fixture(params=[True, False], ids=["xet", "lfs"])
def hub(request: pytest.FixtureRequest, sites: dict[bool, Site]) -> LoopbackHub:
    """A Hub with a base model on it; the test runs with Xet and without."""
    return sites[request.param].fresh().hub


@pytest.fixture
def xet_hub(sites: dict[bool, Site]) -> LoopbackHub:
    """A Hub as the real one is."""
    return sites[True].fresh().hub


@pytest.fixture
def site(request: pytest.FixtureRequest, sites: dict[bool, Site]) -> Site:
    """The site of the test's Hub."""
    hub = request.getfixturevalue("hub" if "hub" in request.fixturenames else "xet_hub")
    return sites[hub.xet]


@pytest.fixture
def alice(site: Site) -> User:
    """A user who may write, with an organisation."""
    return site.alice


@pytest.fixture
def client(site: Site) -> Client:
    """The real client, as alice, in a separate process."""
    return site.client


def add_base_model(hub: LoopbackHub) -> None:
    """Put the base model of the results file on the Hub, with a card."""
    repository = hub.create("alice/base-vit")
    made = repository.commit("refs/heads/main", {"README.md": Entry(BASE_CARD.encode())}, "card", "", "alice")
    repository.tags[BASE_REVISION] = made.sha
