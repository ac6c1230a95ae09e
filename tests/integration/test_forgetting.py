"""What a crash of Postgres forgets, it must show: the unlogged table on which every claim leans, on a real server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import psycopg
import pytest

from saga.cli.embedded import Servers
from saga.engine.store.connect import connect
from saga.engine.store.membership import Membership
from tests.integration.fleet import PATIENCE_SECONDS

pytestmark = [pytest.mark.chaos]


@pytest.fixture
def table(servers: Servers, template_database: str) -> Iterator[Callable[[], int]]:
    """Returns how many rows the table has, once Postgres answers."""
    if servers.postgres is None:
        pytest.skip("SAGA_DATABASE_URL names a server that is not ours to stop")
    database = servers.create_database("saga_forgetting", template=template_database)

    def count() -> int:
        with closing(connect(database.url, application_name="test")) as connection:
            row = connection.execute("SELECT count(*) FROM saga.unbroken").fetchone()
            assert row is not None
            return int(row[0])

    with closing(connect(database.url, application_name="test")) as connection:
        Membership("saga").remember(connection)
    yield count
    servers.drop_database(database.name)


def _crash(servers: Servers) -> None:
    assert servers.postgres is not None
    servers.postgres.stop(immediate=True)
    servers.postgres.start()


def _lose_a_backend(servers: Servers) -> None:
    """Kill one backend: the postmaster lives, ends all others, and recovers as after a crash."""
    with (
        closing(psycopg.connect(servers.superuser_url)) as victim,
        closing(psycopg.connect(servers.superuser_url)) as other,
    ):
        os.kill(victim.info.backend_pid, signal.SIGKILL)
        with pytest.raises(psycopg.OperationalError):
            other.execute("SELECT pg_sleep(30)")
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        with suppress(psycopg.OperationalError):
            psycopg.connect(servers.superuser_url).close()
            return
        assert time.monotonic() < give_up_at, "Postgres does not recover"


def _restart(servers: Servers) -> None:
    assert servers.postgres is not None
    servers.postgres.stop()
    servers.postgres.start()


@pytest.mark.parametrize(("happens", "left"), [(_crash, 0), (_lose_a_backend, 0), (_restart, 1)])
def test_only_a_crash_of_postgres_empties_the_table(
    servers: Servers, table: Callable[[], int], happens: Callable[[Servers], None], left: int
) -> None:
    assert table() == 1

    happens(servers)

    assert table() == left
