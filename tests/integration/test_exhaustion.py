"""A Postgres that has no connection left, or whose tables and rows others hold (F21), under real processes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil
import psycopg
import pytest

from saga.cli.doctor.connections import PER_COORDINATOR
from saga.cli.embedded import Servers
from saga.core.errors import DatabaseUnreachable
from saga.core.lifecycle import Status
from saga.engine.client import Handle
from tests.integration.application import trip
from tests.integration.fleet import Fleet, Node

pytestmark = [pytest.mark.chaos]

_OURS = "datname = current_database() AND application_name LIKE 'saga%'"


@pytest.fixture
def superuser(audited: Fleet, servers: Servers) -> Iterator[psycopg.Connection]:
    """Somebody who sees all sessions of the fleet's database, and whose own place nobody takes."""
    url = psycopg.conninfo.make_conninfo(servers.superuser_url, dbname=audited.database.name)
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def _all_end(fleet: Fleet, handles: list[Handle[str]]) -> None:
    for handle in handles:
        fleet.ends(handle, Status.COMPLETED, seconds=25)
    fleet.until_told()


def _count(connection: psycopg.Connection, query: str) -> int:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def _fill(url: str, crowd: contextlib.ExitStack) -> str:
    """Open connections until Postgres refuses one; return how it said so."""
    while True:
        try:
            crowd.enter_context(psycopg.connect(url, application_name="crowd"))
        except psycopg.OperationalError as error:
            return str(error)


def test_f21_without_a_free_connection_everybody_waits_and_resumes(
    audited: Fleet, superuser: psycopg.Connection, servers: Servers
) -> None:
    if servers.postgres is None:
        pytest.skip("SAGA_DATABASE_URL names a server that others need too")
    coordinators = [audited.nodes["c1"], audited.nodes["c2"]]
    before = [node.said().count("lost Postgres") for node in coordinators]
    handles = [audited.start(trip, f"crowded-{number}") for number in range(8)]
    audited.until(lambda: audited.count("SELECT count(*) FROM saga.event") > 20, "they are under way")

    with contextlib.ExitStack() as crowd:
        quiet = 0

        def taken_over() -> bool:
            nonlocal quiet
            superuser.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {_OURS}".encode())
            _fill(audited.database.url, crowd)
            # Who is ended gives up the place a moment after he is gone from the list: only several looks tell.
            quiet = 0 if _count(superuser, f"SELECT count(*) FROM pg_stat_activity WHERE {_OURS}") else quiet + 1
            return quiet >= 5

        audited.until(taken_over, "others have every connection")
        with pytest.raises(DatabaseUnreachable, match=r"cannot reach the database .*(too many|reserved)") as refused:
            audited.start(trip, "crowded-out")
        assert ":***@" in str(refused.value)
        audited.until(
            lambda: all(
                node.said().count("lost Postgres") > told for node, told in zip(coordinators, before, strict=True)
            ),
            "coordinators wait",
        )

    _all_end(audited, handles)
    assert audited.nodes["w1"].exits + audited.nodes["w2"].exits == []


def test_a_coordinator_opens_no_more_connections_than_the_doctor_counts(
    audited: Fleet, superuser: psycopg.Connection
) -> None:
    ports = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND client_port = ANY (%s)"

    def opened(node: Node) -> int:
        own = [one.laddr.port for one in psutil.Process(node.pid).net_connections("tcp") if one.raddr]
        row = superuser.execute(ports.encode(), (own,)).fetchone()
        return 0 if row is None else int(row[0])

    for name in ("c1", "c2"):
        node = audited.nodes[name]
        audited.until(lambda node=node: opened(node) >= 4, "turns, doorbell, beat and upkeep are there")  # type: ignore[misc]
        assert opened(node) <= PER_COORDINATOR


@pytest.mark.parametrize("table", ["run", "task", "inbox", "event", "coordinator"])
def test_f21_a_table_that_is_locked_for_longer_than_a_lease_costs_time_only(
    audited: Fleet, superuser: psycopg.Connection, table: str
) -> None:
    handles = [audited.start(trip, f"locked-{table}-{number}") for number in range(6)]
    waited = (
        f"SELECT count(*) FROM pg_stat_activity WHERE {_OURS} AND wait_event_type = 'Lock' "
        "AND clock_timestamp() - query_start > interval '2 seconds'"
    )

    with psycopg.connect(audited.database.owner_url) as holder:
        holder.execute(f"LOCK TABLE saga.{table} IN ACCESS EXCLUSIVE MODE".encode())
        audited.until(lambda: _count(superuser, waited) > 0, "somebody has waited for two seconds", tend=False)

    _all_end(audited, handles)


def test_f21_a_turn_that_is_the_victim_of_a_deadlock_is_taken_again(
    audited: Fleet, superuser: psycopg.Connection
) -> None:
    handle = audited.start(trip, "deadlocked", charge="gate:deadlocked")
    audited.reached("deadlocked")
    blocked = f"SELECT count(*) FROM pg_stat_activity WHERE {_OURS} AND wait_event_type = 'Lock'"

    superuser.execute("SET deadlock_timeout = '60s'")  # so that it is the engine's side that finds out
    with superuser.transaction():
        superuser.execute("SELECT 1 FROM saga.run WHERE key = 'deadlocked' FOR UPDATE")
        audited.open("deadlocked")
        with psycopg.connect(superuser.info.dsn, password=superuser.info.password, autocommit=True) as looker:
            audited.until(lambda: _count(looker, blocked) > 0, "the turn waits for the run's row", tend=False)
        superuser.execute("SELECT 1 FROM saga.coordinator FOR UPDATE")

    audited.ends(handle, Status.COMPLETED)
    assert any("40P01" in audited.nodes[name].said() for name in ("c1", "c2"))
    assert audited.attempts(handle, "confirm") == [1]
