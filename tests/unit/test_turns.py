"""Turns over a batch of several runs: what is fed, what waits, and what is dropped from memory on the way."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from greenlet import getcurrent

from saga import Context, Signal, Status
from saga.core.definition import SagaDefinition
from saga.core.events import EventKind
from saga.core.lifecycle import StallReason
from saga.core.signals import signal_payload
from saga.engine.preparing import BY_PARENT
from saga.engine.turn import ORPHAN_SECONDS
from tests.unit.steps import charge, hurry, look, stock
from tests.unit.turned import Turned


def bought(ctx: Context, n: int) -> int:
    return ctx.run(charge, ctx.run(stock, n))


def bought_otherwise(ctx: Context, n: int) -> int:
    return ctx.run(stock, ctx.run(charge, n))


def sent(ctx: Context, n: int) -> int:
    ctx.run(stock, n)
    ctx.pivot()
    return ctx.run(look, n)


def sent_otherwise(ctx: Context, n: int) -> int:
    ctx.run(charge, n)
    ctx.pivot()
    return ctx.run(look, n)


def hurried(ctx: Context, n: int) -> int:
    return ctx.run(hurry, n)


def asked(ctx: Context, n: int) -> int:
    return ctx.wait_signal(go)


go = Signal("go", int)
BUY = SagaDefinition(bought, name="buy")
BUY_OTHERWISE = SagaDefinition(bought_otherwise, name="buy")
SEND = SagaDefinition(sent, name="send")
SEND_OTHERWISE = SagaDefinition(sent_otherwise, name="send")
HURRY = SagaDefinition(hurried, name="hurry")
ASK = SagaDefinition(asked, name="ask", signals=[go])
DEADLINE = "deadline:steps.hurry#1"


# -- the host's sign of life -------------------------------------------------------------------------------------------


def test_the_host_is_told_before_each_run_that_it_is_alive() -> None:
    seen: list[int] = []

    def slow(ctx: Context, n: int) -> int:
        seen.append(turned.moves)
        return ctx.run(look, n)

    saga = SagaDefinition(slow, name="slow")
    turned = Turned(saga)
    for number in range(4):
        turned.start(saga, f"run-{number}")

    turned.turn()

    assert seen == [1, 2, 3, 4]


# -- runs whose replay is broken ---------------------------------------------------------------------------------------


def test_a_cancel_of_a_run_whose_replay_is_broken_ends_in_undo() -> None:
    turned = Turned(BUY)
    run = turned.start(BUY, "order-7")
    turned.turn()
    turned.end(run, "stock")
    turned.turn()
    turned.deploy(BUY_OTHERWISE)

    outcome = turned.end(run, "charge")
    cancel = turned.ask(EventKind.CANCEL_REQUESTED, "buy", "order-7")
    prepared = turned.turn()

    assert prepared.taken == [cancel]
    assert turned.inbox == [outcome]
    assert turned.status(run) is Status.COMPENSATING
    turned.turn()
    for undo in ("charge", "stock"):
        assert turned.in_flight(run) == [f"{undo}.compensate"]
        turned.end(run, f"{undo}.compensate")
        turned.turn()
    assert turned.status(run) is Status.COMPENSATED
    assert EventKind.RUN_STALLED not in turned.kinds(run)


def test_a_cancel_alone_unblocks_a_run_without_a_definition() -> None:
    turned = Turned(BUY)
    run = turned.start(BUY, "order-7")
    turned.turn()
    turned.deploy()

    turned.ask(EventKind.CANCEL_REQUESTED, "buy", "order-7")
    turned.turn()
    turned.turn()

    assert turned.status(run) is Status.COMPENSATED
    assert EventKind.STEP_NEVER_STARTED in turned.kinds(run)
    assert EventKind.RUN_STALLED not in turned.kinds(run)


def test_a_terminate_of_a_run_whose_replay_is_broken_ends_it() -> None:
    turned = Turned(BUY)
    run = turned.start(BUY, "order-7")
    turned.turn()
    turned.deploy(BUY_OTHERWISE)

    turned.end(run, "stock")
    turned.ask(EventKind.TERMINATE_REQUESTED, "buy", "order-7")
    turned.turn()

    assert turned.status(run) is Status.TERMINATED
    turned.turn()
    assert [incident.kind for incident in turned.incidents] == [EventKind.STEP_SUCCEEDED]


def test_a_refused_cancel_leaves_what_waits_to_the_turn_that_records_the_stall() -> None:
    turned = Turned(SEND)
    run = turned.start(SEND, "order-7")
    turned.turn()
    turned.end(run, "stock")
    turned.turn()
    turned.deploy(SEND_OTHERWISE)

    turned.end(run, "look")
    turned.ask(EventKind.CANCEL_REQUESTED, "send", "order-7")
    turned.turn()

    assert turned.kinds(run)[-2:] == [EventKind.CANCEL_REQUESTED, EventKind.CANCEL_REFUSED]
    assert turned.status(run) is Status.RUNNING
    turned.turn()
    assert turned.rows[run].reason == StallReason.REPLAY_MISMATCH
    assert turned.inbox == []


def test_a_timer_that_falls_due_with_a_cancel_of_a_broken_run_waits_too() -> None:
    turned = Turned(HURRY)
    run = turned.start(HURRY, "order-7")
    turned.turn()
    turned.deploy()
    turned.wait(3_600)

    turned.ask(EventKind.CANCEL_REQUESTED, "hurry", "order-7")
    turned.turn()

    assert EventKind.TIMER_FIRED not in turned.kinds(run)
    while turned.inbox or any(due <= turned.now for due in turned.timers.values()):
        turned.turn()
    assert turned.status(run) is Status.COMPENSATED
    assert EventKind.RUN_STALLED not in turned.kinds(run)


# -- arrivals without a run --------------------------------------------------------------------------------------------


def test_a_cancel_whose_start_still_waits_is_not_dropped_however_old_it_is() -> None:
    turned = Turned(BUY)
    run = turned.start(BUY, "order-7")
    cancel = turned.ask(EventKind.CANCEL_REQUESTED, "buy", "order-7")
    turned.wait(10 * ORPHAN_SECONDS)

    turned.turn(starts=False)

    assert cancel in turned.inbox
    assert turned.incidents == []
    turned.turn()
    assert turned.status(run) is Status.COMPENSATING
    assert turned.rows[run].cause == "cancelled"


@pytest.mark.parametrize(("late_seconds", "dropped"), [(-1, False), (1, True)])
def test_a_cancel_without_any_start_becomes_an_incident_after_a_while(late_seconds: float, dropped: bool) -> None:
    turned = Turned(BUY)
    turned.start(BUY, "another")
    turned.ask(EventKind.CANCEL_REQUESTED, "buy", "order-7")
    turned.wait(ORPHAN_SECONDS + late_seconds)

    turned.turn(starts=False)

    assert [incident.kind for incident in turned.incidents] == [EventKind.CANCEL_REQUESTED] * dropped
    assert [arrival.kind for arrival in turned.inbox if arrival.lane == 0] == [EventKind.CANCEL_REQUESTED] * (
        not dropped
    )


def test_an_outcome_of_a_run_that_nobody_knows_becomes_an_incident_after_a_while() -> None:
    turned = Turned(BUY)
    run = turned.start(BUY, "order-7")
    turned.turn()
    turned.end(run, "stock")
    del turned.rows[run]
    turned.cache.clear()

    turned.turn()
    assert turned.incidents == []
    turned.wait(ORPHAN_SECONDS + 1)
    turned.turn()

    assert [incident.run for incident in turned.incidents] == [run]
    assert turned.inbox == []


# -- after the end -----------------------------------------------------------------------------------------------------


def ended(key: str) -> Turned:
    """Return a run that has read a signal and completed."""
    turned = Turned(ASK)
    turned.start(ASK, key)
    turned.rest()
    turned.ask(EventKind.SIGNAL_RECEIVED, "ask", key, step="once", payload=signal_payload("go", "1"))
    turned.rest()
    return turned


def test_a_signal_that_comes_again_after_the_end_is_no_incident() -> None:
    turned = ended("order-7")

    turned.ask(EventKind.SIGNAL_RECEIVED, "ask", "order-7", step="once", payload=signal_payload("go", "1"))
    turned.rest()

    assert turned.status(turned.run_of(ASK, "order-7")) is Status.COMPLETED
    assert (turned.inbox, turned.incidents) == ([], [])


def test_a_signal_after_the_end_is_an_incident_that_tells_its_id() -> None:
    turned = ended("order-7")

    turned.ask(EventKind.SIGNAL_RECEIVED, "ask", "order-7", step="late", payload=signal_payload("go", "2"))
    turned.rest()

    assert [json.loads(incident.payload or "") for incident in turned.incidents] == [
        {"id": "late", "signal": "go", "value": 2}
    ]


def test_a_signal_whose_id_is_the_word_for_a_parents_acts_is_no_parents_act() -> None:
    turned = ended("order-7")

    turned.ask(EventKind.SIGNAL_RECEIVED, "ask", "order-7", step=BY_PARENT, payload=signal_payload("go", "2"))
    turned.rest()

    assert len(turned.incidents) == 1


def test_a_cancel_after_the_end_is_an_incident_and_one_of_a_parent_is_none() -> None:
    turned = ended("order-7")

    turned.ask(EventKind.CANCEL_REQUESTED, "ask", "order-7", step=BY_PARENT)
    turned.ask(EventKind.CANCEL_REQUESTED, "ask", "order-7")
    turned.rest()

    assert [incident.kind for incident in turned.incidents] == [EventKind.CANCEL_REQUESTED]


# -- memory ------------------------------------------------------------------------------------------------------------


def test_a_run_that_its_batch_evicts_is_read_again_from_its_log() -> None:
    turned = Turned(BUY, cache_runs=1)
    first, second = (turned.start(BUY, key) for key in ("first", "second"))
    turned.turn()
    turned.reads.clear()

    # The cache holds the second one: the first one's turn throws it out before its own.
    turned.end(first, "stock")
    turned.end(second, "stock")
    turned.turn()

    assert turned.reads == [{first}, {second}]
    for run in (first, second):
        assert turned.status(run) is Status.RUNNING
        assert turned.in_flight(run) == ["charge"]


# -- timers ------------------------------------------------------------------------------------------------------------


def test_a_run_whose_function_survives_its_eviction_is_stalled_and_goes_on_when_it_is_retried() -> None:
    mended = False

    def clinging(ctx: Context, n: int) -> int:
        try:
            return ctx.run(look, n)
        except BaseException:
            if not mended:
                here = getcurrent()
                assert here.parent is not None
                here.parent.switch()  # it leaves, and could be switched to again
            raise

    cling = SagaDefinition(clinging, name="cling")
    turned = Turned(cling, BUY, cache_runs=1)
    run = turned.start(cling, "a")
    turned.turn()
    turned.start(BUY, "b")
    turned.turn()

    turned.end(run, "look")
    turned.turn()
    assert (turned.rows[run].status, turned.rows[run].reason) == (Status.STALLED, StallReason.SAGA_BUG)
    mended = True
    turned.ask(EventKind.RETRY_REQUESTED, "cling", "a")
    turned.turn()

    assert turned.status(run) is Status.COMPLETED


def test_a_timer_that_is_cancelled_while_it_is_due_need_not_be_there_any_more() -> None:
    turned = Turned(HURRY)
    run = turned.start(HURRY, "order-7")
    turned.turn()
    turned.wait(3_600)
    turned.end(run, "hurry")

    prepared = turned.turns.decide(turned.take())
    assert prepared.batch.timers_gone == []
    assert (run, DEADLINE) in prepared.batch.timers_cancelled
    del turned.timers[run, DEADLINE]
    turned.commit(prepared)

    assert turned.status(run) is Status.COMPLETED


def test_a_timer_that_is_set_and_cancelled_in_one_batch_need_not_be_there_either() -> None:
    turned = Turned(BUY)
    run = turned.start(BUY, "order-7")
    turned.turn()

    turned.end(run, "stock", EventKind.STEP_UNKNOWN, {"type": "TimeoutError", "message": "no reply"})
    turned.ask(EventKind.CANCEL_REQUESTED, "buy", "order-7")
    prepared = turned.turn()

    assert EventKind.RETRY_SET in turned.kinds(run)
    assert prepared.batch.timers == []
    assert prepared.batch.timers_gone == []
    assert turned.timers == {}
    assert turned.in_flight(run) == ["stock.compensate"]


def test_a_timer_that_fires_must_be_there() -> None:
    turned = Turned(HURRY)
    run = turned.start(HURRY, "order-7")
    turned.turn()
    turned.wait(3_600)

    prepared = turned.turns.decide(turned.take())

    assert prepared.batch.timers_gone == [(run, DEADLINE)]


@pytest.mark.parametrize("stands", ["runs", "stalled", "ended"])
def test_a_timer_that_its_run_knows_nothing_of_is_deleted(stands: str) -> None:
    turned = Turned(BUY)
    run = turned.start(BUY, "order-7")
    turned.turn()
    if stands == "stalled":
        turned.deploy(BUY_OTHERWISE)
        turned.end(run, "stock")
        turned.turn()
    if stands == "ended":
        turned.ask(EventKind.TERMINATE_REQUESTED, "buy", "order-7")
        turned.turn()
    status, log = turned.status(run), turned.kinds(run)
    turned.timers[run, "action:steps.charge#1"] = turned.now

    turned.turn()

    assert turned.timers == {}
    assert turned.take().timers == ()
    assert (turned.status(run), turned.kinds(run)) == (status, log)


def test_a_timer_that_is_moved_while_it_is_due_is_neither_fired_nor_deleted() -> None:
    turned = Turned(BUY)
    run = turned.start(BUY, "order-7")
    turned.turn()
    turned.end(run, "stock", EventKind.STEP_UNKNOWN, {"type": "TimeoutError", "message": "no reply"})
    turned.timers[run, "action:steps.stock#1"] = turned.now

    turned.turn()

    assert EventKind.TIMER_FIRED not in turned.kinds(run)
    assert turned.timers[run, "action:steps.stock#1"] == turned.now + timedelta(seconds=10)


def test_a_batch_that_breaks_off_forgets_what_it_had_fed() -> None:
    turned = Turned(BUY, cache_runs=1)
    old = turned.start(BUY, "old")
    turned.turn()
    turned.end(old, "stock")
    new = turned.start(BUY, "new")

    # The start is fed first and throws the old run out of memory, whose log cannot be read.
    turned.fails = 1
    with pytest.raises(ConnectionError):
        turned.turn()
    turned.turn()

    assert turned.in_flight(new) == ["stock"]
    assert turned.in_flight(old) == ["charge"]


# -- asked for and taken back in one batch -----------------------------------------------------------------------------


def test_a_step_whose_run_is_cancelled_in_the_batch_of_its_start_is_never_sent() -> None:
    turned = Turned(BUY)
    run = turned.start(BUY, "a")
    turned.ask(EventKind.CANCEL_REQUESTED, "buy", "a")

    turned.turn()

    assert turned.in_flight(run) == []
    turned.turn()
    assert turned.status(run) is Status.COMPENSATED
