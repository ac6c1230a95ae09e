"""Statements that are executed while their reply is lost, or lost themselves, on the wire to a real Postgres (F19)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery

from saga.core.events import EventKind
from saga.core.lifecycle import Status
from saga.engine.client import Handle, start_run
from saga.engine.installation import DEFAULTS, Installation
from tests.integration.application import Order, ledgered, trip
from tests.integration.fleet import Fleet, kinds
from tests.integration.pgwire import Lost, PostgresGateway
from tests.integration.waiting import asking, count, counting
from tests.integration.wired import Wires, all_attempts

pytestmark = [pytest.mark.chaos]

#: Nothing is published again by the broker's count: what a turn without a reply did not publish would be lost for good.
WIRED = {"SAGA_TEST_SETTLING": "3600"}

TURN = "commit_turns_v"
CLAIM = r"SET claimed_by = \$"
OUTCOME = r"WITH done AS \(\s*DELETE"
SENT = r"INSERT INTO \S*inbox \(shard, lane, run, saga"

FORWARD = {(step, "action", 1) for step in ("reserve", "charge", "confirm", "book", "notify")}
BACK = {
    ("reserve", "action", 1),
    ("charge", "action", 1),
    ("confirm", "action", 1),
    ("charge", "compensation", 1),
    ("reserve", "compensation", 1),
}


def _in_one_try(wires: Wires, key: str) -> None:
    """Run some forward and some back, and expect that nothing was asked for twice."""
    fleet = wires.fleet
    forward = [fleet.start(trip, f"{key}-{number}") for number in range(6)]
    back = [fleet.start(trip, f"{key}-back-{number}", confirm="abort") for number in range(3)]

    for handle in forward:
        fleet.ends(handle, Status.COMPLETED)
        assert all_attempts(fleet, handle) == FORWARD
    for handle in back:
        fleet.ends(handle, Status.COMPENSATED)
        assert all_attempts(fleet, handle) == BACK


@pytest.mark.parametrize("lost", Lost)
def test_f19_a_turn_without_a_reply_is_read_again_by_its_heads(wired: Wires, lost: Lost) -> None:
    before = {name: len(wired.fleet.nodes[name].exits) for name in ("c1", "c2")}
    losses = [wired.databases[name].lose(lost, TURN, times=3) for name in ("c1", "c2")]

    _in_one_try(wired, f"turn-{lost}")

    assert sum(loss.happened for loss in losses) >= 3
    assert {name: len(wired.fleet.nodes[name].exits) for name in ("c1", "c2")} == before


@pytest.mark.parametrize("lost", Lost)
def test_f19_a_claim_without_a_reply_is_asked_for_again_and_is_had_once(wired: Wires, lost: Lost) -> None:
    losses = [wired.databases[name].lose(lost, CLAIM, times=4) for name in ("w1", "w2")]

    _in_one_try(wired, f"claim-{lost}")

    assert sum(loss.happened for loss in losses) >= 4


@pytest.mark.parametrize("lost", Lost)
def test_f19_an_outcome_without_a_reply_is_told_again_and_counts_once(wired: Wires, lost: Lost) -> None:
    losses = [wired.databases[name].lose(lost, OUTCOME, times=4) for name in ("w1", "w2")]

    _in_one_try(wired, f"outcome-{lost}")

    assert sum(loss.happened for loss in losses) >= 4
    # What is told late was in the log before.
    wired.fleet.until(lambda: wired.fleet.count("SELECT count(*) FROM saga.inbox") == 0, "the late words are taken")
    assert wired.fleet.count("SELECT count(*) FROM saga.incident") == 0
    assert wired.fleet.count("SELECT count(*) FROM saga.event WHERE kind = 'OutcomeLate'") == 0


@pytest.mark.parametrize("lost", Lost)
@pytest.mark.parametrize(
    ("moods", "end", "left"), [({}, Status.COMPLETED, 1), ({"confirm": "abort"}, Status.COMPENSATED, 0)]
)
def test_f19_a_commit_of_a_transactional_step_without_a_reply_is_looked_after(
    wired: Wires, lost: Lost, moods: dict[str, str], end: Status, left: int
) -> None:
    fleet = wired.fleet
    before = fleet.count("SELECT count(*) FROM public.posting")
    losses = [wired.databases[name].lose(lost, "^COMMIT", times=2) for name in ("w1", "w2")]

    handle = fleet.start(ledgered, f"commit-{lost}-{left}", **moods)
    history = fleet.ends(handle, end)

    assert sum(loss.happened for loss in losses) >= 1
    assert fleet.count("SELECT count(*) FROM public.posting") == before + left
    unanswered = {EventKind.STEP_UNKNOWN, EventKind.STEP_LOST, EventKind.STEP_ROLLED_BACK}
    assert not unanswered & set(kinds(history))


@pytest.fixture
def client(wired: Wires) -> Iterator[tuple[Installation, PostgresGateway]]:
    """A client whose way to Postgres can be spoilt."""
    app = Celery("spoilt-client", set_as_current=False)
    app.add_defaults({**DEFAULTS, "saga_database_url": wired.database_way("client")})
    installation = Installation(app)
    yield installation, wired.databases["client"]
    installation.database.dispose()


@pytest.mark.parametrize("lost", Lost)
def test_f19_a_start_without_a_reply_is_sent_again_and_makes_one_run(
    wired: Wires, client: tuple[Installation, PostgresGateway], lost: Lost
) -> None:
    installation, gateway = client
    fleet = wired.fleet
    text = installation.codec.encode_saga_input(trip, Order({}))
    loss = gateway.lose(lost, SENT)

    handle: Handle[str] = start_run(installation, trip, f"start-{lost}", text)
    fleet.accepted.add(handle.address)

    assert loss.happened == 1
    assert handle.result(timeout=30).startswith("book:")
    assert handle.created
    assert all_attempts(fleet, handle) == FORWARD
    _only_one(fleet, f"start-{lost}")


@pytest.mark.parametrize("lost", Lost)
def test_f19_an_update_without_a_reply_is_sent_again_and_counts_once(
    wired: Wires, client: tuple[Installation, PostgresGateway], lost: Lost
) -> None:
    installation, gateway = client
    wired.fleet.start(counting, f"update-{lost}")
    handle: Handle[int] = Handle(installation, "counting", f"update-{lost}", definition=counting)
    loss = gateway.lose(lost, SENT)

    assert handle.update(count, 3) == 3
    assert handle.update(count, 0) == 3

    assert loss.happened == 1
    assert kinds(handle.history()).count(EventKind.SIGNAL_RECEIVED) == 2


@pytest.mark.parametrize("lost", Lost)
def test_f19_a_cancel_without_a_reply_is_asked_again_and_undoes_once(
    wired: Wires, client: tuple[Installation, PostgresGateway], lost: Lost
) -> None:
    installation, gateway = client
    fleet = wired.fleet
    started = fleet.start(asking, f"cancel-{lost}")
    fleet.until(lambda: fleet.shown(started), "it waits")
    loss = gateway.lose(lost, SENT)

    Handle[list[str]](installation, "asking", f"cancel-{lost}", definition=asking).cancel()

    history = fleet.ends(started, Status.COMPENSATED)
    assert loss.happened == 1
    assert kinds(history).count(EventKind.RUN_COMPENSATING) == 1
    assert fleet.undone(started, "reserve") == 1


def _only_one(fleet: Fleet, key: str) -> None:
    row = fleet.owner.execute("SELECT id FROM saga.run WHERE key = %s", (key,)).fetchall()
    assert len(row) == 1
    assert fleet.count("SELECT count(*) FROM saga.event WHERE kind = 'RunStarted' AND run = %s", row[0][0]) == 1
