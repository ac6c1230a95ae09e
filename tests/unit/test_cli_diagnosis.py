"""Why a run does not move: each reason, from facts made by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from saga.cli.diagnosis import Answers, Node, diagnose, slow_tasks
from saga.cli.waits import Child, Lock, SignalWait, Waits
from saga.engine.records import Arrival, RunRow
from saga.engine.store.reading import CoordinatorRow, OpenTask, OpenTimer

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ONE = UUID(int=1)


def row(status: str = "running", reason: str | None = None) -> RunRow:
    digest = bytes(32)
    ended = NOW if status == "completed" else None
    return RunRow(ONE, "checkout", "1", 7, 1, "b", status, reason, None, 3, digest, digest, NOW, ended)


def coordinator(*shards: int, alive: bool = True) -> CoordinatorRow:
    return CoordinatorRow(ONE, "b", NOW, NOW, None, alive, list(shards))


def task(seconds: float, *, claimed: bool = False, lease_seconds: float = 60) -> OpenTask:
    created = NOW - timedelta(seconds=seconds)
    if not claimed:
        return OpenTask(ONE, 1, 1, "payments.charge", "payments", created, None, None, None)
    return OpenTask(
        ONE, 1, 1, "payments.charge", "payments", created, ONE, created, created + timedelta(seconds=lease_seconds)
    )


def reasons(
    of: RunRow | None = None,
    *,
    coordinators: tuple[CoordinatorRow, ...] = (coordinator(7),),
    tasks: tuple[OpenTask, ...] = (),
    timers: tuple[OpenTimer, ...] = (),
    arrivals: tuple[Arrival, ...] = (),
    answers: Answers | None = None,
    waits: Waits | None = None,
    stall_message: str | None = None,
) -> str:
    return "\n".join(
        diagnose(
            of or row(),
            now=NOW,
            coordinators=coordinators,
            arrivals=arrivals,
            tasks=tasks,
            timers=timers,
            waits=waits,
            answers=answers,
            stall_message=stall_message,
            shard=7,
        )
    )


def test_an_ended_run_waits_for_nothing() -> None:
    assert reasons(row("completed"), coordinators=()) == ""


def test_no_coordinator_is_the_first_thing_said() -> None:
    assert reasons(coordinators=(coordinator(7, alive=False),)).startswith("no coordinator is running")


def test_a_shard_without_an_owner_is_said() -> None:
    assert "no living coordinator owns shard 7" in reasons(coordinators=(coordinator(8),))


def test_a_task_just_queued_asks_no_worker() -> None:
    assert slow_tasks([task(1)], NOW) == []
    assert "has just been queued on payments" in reasons(tasks=(task(1),))


def test_a_queue_without_a_worker_is_named() -> None:
    told = reasons(tasks=(task(30),), answers=Answers((Node("w1", ("mail",)),)))

    assert "no worker consumes queue payments (workers answer for mail)" in told


def test_no_worker_at_all_is_said() -> None:
    assert "no worker answers at all" in reasons(tasks=(task(30),), answers=Answers())


def test_a_worker_without_the_step_is_named() -> None:
    answers = Answers((Node("w1", ("payments",), frozenset({"other.task"})),))

    assert "no worker of queue payments knows the task payments.charge (w1)" in reasons(
        tasks=(task(30),), answers=answers
    )


def test_a_busy_worker_is_named() -> None:
    answers = Answers((Node("w1", ("payments",), frozenset({"payments.charge"})),))

    assert "consumed by w1: busy" in reasons(tasks=(task(30),), answers=answers)


def test_a_silent_broker_does_not_hide_the_rest() -> None:
    told = reasons(tasks=(task(30),), answers=Answers(silence="connection refused"))

    assert "waits on queue payments for 30.0 s; whether a worker consumes it is not known: connection refused" in told


def test_a_running_attempt_and_a_silent_worker_differ() -> None:
    assert "is being run since 5.0 s" in reasons(tasks=(task(5, claimed=True),))
    assert "its worker has been silent" in reasons(tasks=(task(90, claimed=True),))


def test_timers_say_what_they_are_for() -> None:
    due = NOW + timedelta(seconds=40)
    names = ("action:a.b#1", "compensation:a.b#1", "deadline:a.b#1", "timeout")
    told = reasons(timers=tuple(OpenTimer(name, due) for name in names)).splitlines()

    assert told[0].startswith("waiting for a retry of a.b#1 at ")
    assert told[0].endswith("(in 40.0 s)")
    assert told[1].startswith("waiting for a retry of the undo of a.b#1")
    assert told[2].startswith("the deadline of a.b#1")
    assert told[3].startswith("the run is undone if it has not passed its pivot")


def test_a_wait_for_a_signal_says_how_to_send_it() -> None:
    waits = Waits(signals=(SignalWait("decision", "signal:decision#1", NOW - timedelta(days=3)),))

    assert (
        reasons(waits=waits) == "waiting for signal decision since 3 d: `saga signal checkout/1 decision JSON` sends it"
    )
    assert reasons(row("completed"), waits=waits) == ""


def test_a_timer_of_the_saga_says_when_it_is_due() -> None:
    assert "waiting for timer#1 at " in reasons(timers=(OpenTimer("timer:timer#1", NOW + timedelta(seconds=40)),))
    late = reasons(timers=(OpenTimer("timer:timer#1", NOW - timedelta(seconds=4)),))
    assert late == "waiting for timer#1 since 4.0 s: it is due"


def child(status: str, *, reason: str | None = None, open: bool = True, undo: bool = False) -> Child:  # noqa: A002
    return Child("child:leg#1", ONE, "leg/1", undo, NOW - timedelta(seconds=5), open, status, reason)


def test_an_undo_that_waits_for_what_may_still_land_says_so() -> None:
    told = reasons(timers=(OpenTimer("unheard:payments.charge#1", NOW + timedelta(seconds=40)),))

    assert "an attempt of payments.charge#1 was ended with its run and may still land" in told


def test_a_wait_for_a_child_says_where_it_stands() -> None:
    def told(one: Child) -> str:
        return reasons(waits=Waits(children=(one,)))

    assert told(child("running")) == "waiting for its child leg/1 (running) since 5.0 s"
    assert told(child("running", undo=True)) == "waiting for the undo of its child, leg/1 (running) since 5.0 s"
    assert "is stalled (saga_bug): `saga show leg/1` says why" in told(child("stalled", reason="saga_bug"))
    assert told(child("completed")) == "waiting for a turn: its child leg/1 has ended (completed)"
    assert told(child("completed", open=False)) == ""


def test_a_wait_for_a_lock_says_who_holds_it() -> None:
    held = Lock("order:1", True, "checkout/1", 0, NOW)
    line = Lock("order:2", False, "checkout/9", 2, NOW - timedelta(seconds=7))

    told = reasons(waits=Waits(locks=(held, line)))

    assert told == "waiting for lock order:2 since 7.0 s, held by checkout/9; 2 run(s) stand before it"


def test_each_stall_says_what_to_do() -> None:
    assert "saga resolve checkout/1" in reasons(row("stalled", "compensation_gave_up"), stall_message="a.b#1: no")
    assert "(a.b#1: no)" in reasons(row("stalled", "compensation_gave_up"), stall_message="a.b#1: no")
    assert "deploy a saga function" in reasons(row("stalled", "saga_bug"))
    assert "defines checkout version 1" in reasons(row("stalled", "no_definition"))
    assert "can decode" in reasons(row("stalled", "not_decoded"))
    assert "saga cancel checkout/1" in reasons(row("stalled", "limit_reached"))


def test_arrivals_that_no_turn_takes_are_counted() -> None:
    arrival = Arrival(
        1, 7, 0, ONE, None, None, "StepSucceeded", None, None, None, None, None, NOW - timedelta(seconds=9)
    )

    assert "1 arrival(s) wait for a turn since 9.0 s: StepSucceeded" in reasons(arrivals=(arrival,))
