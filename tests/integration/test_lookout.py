"""The demo's lookout: it looks again when its connection was cut, and leaves none behind."""

from __future__ import annotations

import psycopg
import pytest

from demo_shop.lookout import UNREACHABLE, Lookout
from demo_shop.waiting import wait_for
from saga.cli.embedded import Database, Servers

_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND usename = %s"


def _lookout(url: str) -> Lookout:
    return Lookout(database_url=url, broker_url="redis://127.0.0.1:1/0", schema="saga", queue="shop")


def _cut(servers: Servers, database: Database) -> int:
    """Cut off all sessions of the application, and return how many there were."""
    with psycopg.connect(servers.superuser_url, autocommit=True) as superuser:
        return len(superuser.execute(_SESSIONS, (database.name, servers.application_role)).fetchall())


def test_a_look_after_its_connection_was_cut_sees_as_before(servers: Servers, database: Database) -> None:
    if servers.application_role is None:
        pytest.skip("SAGA_DATABASE_URL names one role for all")
    with _lookout(database.url) as lookout:
        before = lookout.unowned_shards()

        cut = _cut(servers, database)

        assert cut == 1, "all looks share one connection"
        assert lookout.unowned_shards() == before == 64
    wait_for(lambda: not _cut(servers, database), what="its connection to be gone", seconds=10)


def test_a_look_at_a_database_that_is_away_says_so(database: Database) -> None:
    with _lookout(database.url.replace(database.name, "nowhere")) as lookout, pytest.raises(UNREACHABLE):
        lookout.statuses()
