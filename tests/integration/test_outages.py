"""Whole roles taken away: coordinators frozen or all killed, Postgres and the broker stopped (F1, F7 to F22)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from saga.cli.embedded import Servers
from saga.core.lifecycle import Status
from saga.engine.client import Handle
from tests.integration.application import trip
from tests.integration.fleet import ROOT, Fleet
from tests.integration.gateway import Gateway
from tests.pace import LEASE_SECONDS

pytestmark = [pytest.mark.chaos]

_OWNER_OF = (
    "SELECT application_name FROM pg_stat_activity a JOIN saga.shard s ON a.application_name = 'saga:' || s.owner"
)


@pytest.fixture
def gateway(servers: Servers) -> Iterator[Gateway]:
    """A way to Postgres that can be cut."""
    at = urlsplit(servers.database_url)
    made = Gateway(at.hostname or "127.0.0.1", at.port or 5432)
    yield made
    made.close()


def _all_end(fleet: Fleet, handles: list[Handle[str]], *, seconds: float = 40) -> None:
    for handle in handles:
        fleet.ends(handle, Status.COMPLETED, seconds=seconds)


def _some_done(fleet: Fleet, handles: list[Handle[str]]) -> bool:
    return any(fleet.status(handle) is Status.COMPLETED for handle in handles)


def test_f1_a_client_killed_before_its_insert_commits_started_nothing_and_may_start_again(audited: Fleet) -> None:
    code = (
        "import os, signal, psycopg\n"
        "from celery import Celery\n"
        "from saga.engine.client import start_run\n"
        "from saga.engine.installation import DEFAULTS, Installation\n"
        "from tests.integration.application import Order, trip\n"
        "app = Celery('killed-client'); app.add_defaults({**DEFAULTS, 'saga_database_url': os.environ['DATABASE']})\n"
        "installation = Installation(app)\n"
        "connection = psycopg.connect(os.environ['DATABASE'])\n"
        "text = installation.codec.encode_saga_input(trip, Order({}))\n"
        "start_run(installation, trip, 'f1', text, connection)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "DATABASE": audited.database.url, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL

    handles = [audited.start(trip, "f1") for _ in range(3)]

    _all_end(audited, handles)
    assert audited.count("SELECT count(*) FROM saga.run WHERE key = 'f1'") == 1
    assert handles[0].created


def test_f7_a_coordinator_frozen_beyond_its_lease_steps_down_when_it_goes_on(audited: Fleet) -> None:
    frozen = audited.nodes["c1"]
    before = len(frozen.exits)
    audited.freeze(frozen)

    handles = [audited.start(trip, f"f7-{number}") for number in range(8)]
    _all_end(audited, handles)
    frozen.kept = False
    audited.thaw(frozen)

    audited.until(lambda: not frozen.lives, "the frozen coordinator exits")
    frozen.kept = True
    audited.tend()
    assert frozen.exits[before:] == [1]
    assert "was buried" in frozen.said()


def test_f8_of_several_reapers_one_takes_each_shard(audited: Fleet) -> None:
    extra = [audited.coordinator(f"extra{number}") for number in range(2)]
    audited.until(lambda: audited.count("SELECT count(DISTINCT owner) FROM saga.shard") == 4, "four share the shards")
    handles = [audited.start(trip, f"f8-{number}") for number in range(10)]

    extra[0].kept = False
    audited.kill(extra[0], audited.nodes["c1"])

    _all_end(audited, handles)
    audited.stop(extra[1])
    audited.until(lambda: audited.owned_by_living() == 64, "every shard has a living owner")


def test_f9_all_coordinators_killed_at_once_leave_a_pause(audited: Fleet) -> None:
    handles = [audited.start(trip, f"f9-coordinators-{number}") for number in range(20)]
    audited.until(lambda: audited.count("SELECT count(*) FROM saga.task") > 0, "attempts are under way")

    audited.kill(audited.nodes["c1"], audited.nodes["c2"])

    _all_end(audited, handles)


def test_f9_all_processes_killed_at_once_leave_a_pause(audited: Fleet) -> None:
    handles = [audited.start(trip, f"f9-all-{number}") for number in range(20)]
    audited.until(lambda: audited.count("SELECT count(*) FROM saga.task WHERE claimed_by IS NOT NULL") > 0, "claims")

    audited.kill(*audited.nodes.values())

    _all_end(audited, handles)


def test_f17_every_connection_terminated_is_opened_again(audited: Fleet, servers: Servers) -> None:
    handles = [audited.start(trip, f"f17-{number}") for number in range(30)]
    with psycopg.connect(servers.superuser_url, autocommit=True) as superuser:
        for _ in range(3):
            superuser.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = %s AND application_name LIKE 'saga%%'",
                (audited.database.name,),
            )
            audited.until(lambda: audited.count("SELECT count(*) FROM saga.coordinator") > 0, "Postgres answers")

    _all_end(audited, handles)


def test_f18_postgres_stopped_hard_loses_nothing_that_was_acknowledged(audited: Fleet, servers: Servers) -> None:
    if servers.postgres is None:
        pytest.skip("SAGA_DATABASE_URL names a server that is not ours to stop")
    handles = [audited.start(trip, f"f18-{number}") for number in range(30)]
    audited.until(lambda: _some_done(audited, handles), "some have ended")

    servers.postgres.stop(immediate=True)
    servers.postgres.start()

    _all_end(audited, handles)


def test_f22_a_flushed_broker_costs_time_only(audited: Fleet) -> None:
    workers = [audited.nodes["w1"], audited.nodes["w2"]]
    audited.freeze(*workers)
    handles = [audited.start(trip, f"f22-flush-{number}") for number in range(30)]
    audited.until(lambda: audited.queued() >= 20, "messages are queued")

    with audited.broker() as client:
        client.flushdb()
    audited.thaw(*workers)

    _all_end(audited, handles)


def test_f22_a_broker_killed_and_started_again_is_consumed_again(audited: Fleet, servers: Servers) -> None:
    if servers.valkey is None:
        pytest.skip("CELERY_BROKER_URL names a broker that is not ours to stop")
    handles = [audited.start(trip, f"f22-kill-{number}") for number in range(20)]
    audited.until(lambda: _some_done(audited, handles), "some have ended")

    servers.valkey.stop(immediate=True)
    servers.valkey.start()

    _all_end(audited, handles)


def test_f22_a_paused_broker_costs_time_only(audited: Fleet) -> None:
    handles = [audited.start(trip, f"f22-pause-{number}") for number in range(10)]

    with audited.broker() as client:
        client.client_pause(3000)

    _all_end(audited, handles)


def test_a_coordinator_told_to_end_hands_over_at_once(audited: Fleet) -> None:
    handles = [audited.start(trip, f"sigterm-{number}", reserve="gate:sigterm") for number in range(2)]
    audited.reached("sigterm")
    leaving = audited.nodes["c2"]

    began = time.monotonic()
    leaving.kept = False
    leaving.process.terminate()
    staying = (
        "SELECT count(*) FROM saga.shard s JOIN saga.coordinator c ON c.id = s.owner WHERE c.dead_at IS NULL "
        "AND c.lease_until > clock_timestamp()"
    )
    audited.until(lambda: not leaving.lives and audited.count(staying) == 64, "the other has every shard", tend=False)
    took = time.monotonic() - began
    audited.open("sigterm")

    assert leaving.process.returncode == 0
    assert took < LEASE_SECONDS, f"the hand-over took {took:.2f} s, a lease is {LEASE_SECONDS} s"
    leaving.kept = True
    _all_end(audited, handles)


def test_a_worker_that_reaches_the_broker_but_not_postgres_does_not_acknowledge(
    bare_fleet: Fleet, gateway: Gateway
) -> None:
    fleet = bare_fleet
    url = urlsplit(fleet.database.url)
    behind = url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{gateway.port}").geturl()
    # Nothing is published again here, so what is acknowledged without a claim would be lost for good.
    fleet.coordinator("c1", SAGA_TEST_SETTLING="3600")
    fleet.worker("w1", "-P", "prefork", "-c", "1", SAGA_TEST_DATABASE=behind)
    fleet.until_ready()
    fleet.ends(fleet.start(trip, "before"), Status.COMPLETED)

    gateway.shut()
    handle = fleet.start(trip, "cut-off")
    fleet.until(lambda: "goes back to its queue" in fleet.nodes["w1"].said(), "the step's time limit strikes")
    fleet.until(lambda: fleet.nodes["w1"].said().count("application.reserve[") >= 4, "it is delivered again")
    # Between its two commands a delivery is in neither of the places that are counted.
    fleet.until(lambda: fleet.queued() == 1, "the message is with the broker or the worker")
    gateway.open()

    fleet.ends(handle, Status.COMPLETED)
