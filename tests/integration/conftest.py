"""One fleet for each module of tests, in a database of its own; each test ends with an audit of all runs so far."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from saga.cli.embedded import Servers
from tests.integration import application, beating, waiting
from tests.integration.fleet import Fleet
from tests.integration.wired import Wires

_numbers = itertools.count(1)

#: What an audit replays.
SAGAS = {
    (saga.name, saga.version): saga
    for saga in (
        application.trip,
        application.fork,
        application.fallback,
        application.patient,
        application.drifting,
        application.straying,
        application.racing,
        application.ledgered,
        *waiting.SAGAS,
        beating.moving,
    )
}
_at_work: set[str] = set()  #: the brokers of the fleets that there are

_POSTINGS = """
CREATE TABLE public.posting (token uuid NOT NULL, attempt integer NOT NULL);
GRANT SELECT, INSERT, DELETE ON public.posting TO PUBLIC;
"""


def make_fleet(servers: Servers, template: str, folder: Path, **environment: str) -> Iterator[Fleet]:
    """Make a fleet without any process, and end all of its processes afterwards."""
    url = servers.broker_url
    if servers.valkey is None and url in _at_work:
        pytest.skip("CELERY_BROKER_URL names one broker, whose messages the workers of the module's own fleet take")
    database = servers.create_database(f"saga_fleet_{uuid.uuid4().hex[:8]}", template=template)
    if servers.valkey is not None:
        # The numbers below are for those tests that ask for a broker by itself.
        url = urlsplit(url)._replace(path=f"/{40 + next(_numbers) % 24}").geturl()
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    fleet = Fleet(database, url, folder, **environment)
    _at_work.add(url)
    try:
        fleet.owner.execute(_POSTINGS)
        yield fleet
    finally:
        fleet.close()
        _at_work.discard(url)
        servers.drop_database(database.name)


@pytest.fixture(scope="module")
def fleet(servers: Servers, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two coordinators and two workers, shared by a module's tests."""
    for made in make_fleet(servers, template_database, tmp_path_factory.mktemp("fleet")):
        for name in ("c1", "c2"):
            made.coordinator(name)
        for name in ("w1", "w2"):
            made.worker(name)
        made.until_ready()
        yield made


@pytest.fixture
def audited(fleet: Fleet) -> Iterator[Fleet]:
    """The module's fleet, with every process running; all runs so far are held against the invariants at the end."""
    fleet.tend()
    fleet.until_ready()
    yield fleet
    fleet.audit(SAGAS)


@pytest.fixture
def bare_fleet(servers: Servers, template_database: str, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet of a test's own without any process yet; audited at the end."""
    for made in make_fleet(servers, template_database, tmp_path / "fleet"):
        yield made
        made.audit(SAGAS)


@pytest.fixture(scope="module")
def wires(
    servers: Servers,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Wires]:
    """Two coordinators and two workers, each behind ways of its own to Postgres and the broker.

    A module's WIRED is added to their environment.
    """
    environment = {"SAGA_TEST_ANSWER": "2", **getattr(request.module, "WIRED", {})}
    folder = tmp_path_factory.mktemp("wired")
    for fleet in make_fleet(servers, template_database, folder, **environment):
        made = Wires(fleet)
        try:
            for name in ("c1", "c2"):
                made.coordinator(name)
            for name in ("w1", "w2"):
                made.worker(name)
            fleet.until_ready()
            yield made
        finally:
            made.close()


@pytest.fixture
def wired(wires: Wires) -> Iterator[Wires]:
    """The module's wired fleet with every way open; all runs so far are held against the invariants at the end."""
    wires.fleet.tend()
    wires.fleet.until_ready()
    shared = "SELECT count(DISTINCT owner) FROM saga.shard"
    wires.fleet.until(lambda: wires.fleet.count(shared) == 2, "both coordinators share the shards")
    yield wires
    wires.restore()
    wires.fleet.tend()
    wires.fleet.until_told()
    wires.fleet.audit(SAGAS)
