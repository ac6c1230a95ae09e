"""Ways that answer late, not at all or never again, and partitions between any two (F20, F24), on real processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from celery import Celery

import saga.engine.store.connect
from saga.core.errors import DatabaseUnreachable, ResultTimeout
from saga.core.lifecycle import Status
from saga.engine.client import Handle, start_run
from saga.engine.installation import DEFAULTS, Installation
from tests.integration.application import Order, drifting, patient, trip
from tests.integration.fleet import Fleet, Node
from tests.integration.gateway import Gateway
from tests.integration.wired import Wires

pytestmark = [pytest.mark.chaos]

#: How a way is spoilt for a while, and mended.
SPOILT: dict[str, tuple[Callable[[Gateway], None], Callable[[Gateway], None]]] = {
    "cut": (Gateway.shut, Gateway.open),
    "silent": (Gateway.freeze, Gateway.thaw),
}
HOW = pytest.mark.parametrize("how", SPOILT)


@contextlib.contextmanager
def _spoilt(how: str, *gateways: Gateway) -> Iterator[None]:
    spoil, mend = SPOILT[how]
    for gateway in gateways:
        spoil(gateway)
    try:
        yield
    finally:
        for gateway in gateways:
            mend(gateway)


def _all_end(fleet: Fleet, handles: list[Handle[str]]) -> None:
    for handle in handles:
        fleet.ends(handle, Status.COMPLETED)


def _holder(fleet: Fleet, handle: Handle[str], occurrence: str) -> Node:
    """Return the worker that took the message of a step."""
    token = next(str(event.token) for event in handle.history() if event.key == occurrence)
    return next(fleet.nodes[name] for name in ("w1", "w2") if token in fleet.nodes[name].said())


@HOW
def test_f20_f24_a_coordinator_without_postgres_is_succeeded_and_steps_down_when_it_is_back(
    wired: Wires, how: str
) -> None:
    fleet, lonely = wired.fleet, wired.fleet.nodes["c1"]
    before = len(lonely.exits)

    with _spoilt(how, wired.databases["c1"]):
        handles = [fleet.start(trip, f"lonely-{how}-{number}") for number in range(6)]
        _all_end(fleet, handles)
        fleet.until(lambda: fleet.count("SELECT count(DISTINCT owner) FROM saga.shard") == 1, "the other has them all")
        assert lonely.exits[before:] == []

    fleet.until(lambda: lonely.exits[before:], "it exits")
    assert lonely.exits[before:] == [1]
    assert "was buried" in lonely.said()


@HOW
def test_f20_f24_a_worker_without_postgres_in_mid_step_leaves_one_effect(wired: Wires, how: str) -> None:
    fleet = wired.fleet
    handle = fleet.start(drifting, f"mid-step-{how}", drift=f"gate:mid-step-{how}")
    fleet.reached(f"mid-step-{how}")
    holder = _holder(fleet, handle, "application.drift#1")

    with _spoilt(how, wired.databases[holder.name]):
        fleet.open(f"mid-step-{how}")
        fleet.ends(handle, Status.COMPLETED)

    assert fleet.applied(handle, "drift") == 1
    assert fleet.applied(handle, "confirm") == 1


def test_f20_when_nobody_is_answered_everything_waits_and_resumes(wired: Wires) -> None:
    fleet = wired.fleet
    handles = [fleet.start(trip, f"nobody-{number}") for number in range(8)]
    fleet.until(lambda: fleet.count("SELECT count(*) FROM saga.event") > 20, "they are under way")
    late = "SELECT count(*) FROM saga.coordinator WHERE dead_at IS NULL AND lease_until > clock_timestamp()"

    with _spoilt("silent", *wired.databases.values()):
        fleet.until(lambda: fleet.count(late) == 0, "every lease has run out")

    _all_end(fleet, handles)


def test_f20_connections_that_never_answer_again_are_given_up(wired: Wires) -> None:
    fleet = wired.fleet
    handles = [fleet.start(trip, f"never-{number}") for number in range(8)]
    fleet.until(lambda: fleet.count("SELECT count(*) FROM saga.event") > 20, "they are under way")

    for gateway in wired.databases.values():
        gateway.forget()

    _all_end(fleet, handles)


def test_f20_a_slow_node_is_not_a_dead_one(bare_fleet: Fleet) -> None:
    slow = Wires(bare_fleet)
    with contextlib.closing(slow):
        slow.coordinator("c1", SAGA_TEST_LEASE="6")
        slow.worker("w1")
        bare_fleet.until_ready()
        _all_end(bare_fleet, [bare_fleet.start(patient, "not-yet-slow")])
        for gateway in slow.databases.values():
            gateway.latency_seconds = 0.25  # each way

        handles = [bare_fleet.start(patient, f"slow-{number}") for number in range(4)]
        _all_end(bare_fleet, handles)

        assert [bare_fleet.attempts(handle, "crawl") for handle in handles] == [[1]] * 4
        assert bare_fleet.count("SELECT count(*) FROM saga.coordinator") == 1
        assert bare_fleet.nodes["c1"].exits == []


def test_f20_a_client_that_is_not_answered_is_told_so(wired: Wires, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saga.engine.store.connect, "ANSWER_SECONDS", 0.5)
    app = Celery("unanswered-client", set_as_current=False)
    app.add_defaults({**DEFAULTS, "saga_database_url": wired.database_way("client")})
    client = Installation(app)
    text = client.codec.encode_saga_input(trip, Order({}))
    handle = start_run(client, trip, "unanswered", text)
    wired.fleet.accepted.add(handle.address)

    wired.databases["client"].forget()
    assert handle.result(timeout=15).startswith("book:")

    wired.databases["client"].forget()
    wired.databases["client"].freeze()
    with pytest.raises(ResultTimeout, match="Postgres does not answer") as told:
        handle.result(timeout=0.2)
    assert isinstance(told.value.__cause__, DatabaseUnreachable)
    wired.databases["client"].thaw()
    assert handle.status() is Status.COMPLETED
    client.database.dispose()


@HOW
def test_f24_a_coordinator_without_the_broker_loses_nothing(wired: Wires, how: str) -> None:
    fleet = wired.fleet

    with _spoilt(how, wired.brokers["c1"], wired.brokers["c2"]):
        handles = [fleet.start(trip, f"no-broker-{how}-{number}") for number in range(6)]
        fleet.until(lambda: fleet.count("SELECT count(*) FROM saga.task") == 6, "their first steps are committed")
        assert fleet.queued() == 0

    _all_end(fleet, handles)


@HOW
def test_f24_a_worker_without_the_broker_is_done_without_and_consumes_again_afterwards(wired: Wires, how: str) -> None:
    fleet, lonely, other = wired.fleet, wired.fleet.nodes["w1"], wired.fleet.nodes["w2"]

    with _spoilt(how, wired.brokers["w1"]):
        _all_end(fleet, [fleet.start(trip, f"lonely-worker-{how}-{number}") for number in range(3)])
    fleet.stop(other)
    handle = fleet.start(trip, f"lonely-worker-{how}-again")
    _all_end(fleet, [handle])

    assert lonely.lives
    other.kept = True
