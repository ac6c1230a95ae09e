"""Workers killed, frozen and cut short in the middle of an action, a compensation and a probe (F10 to F15)."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID

import pytest

from saga.core.events import Direction, Event, EventKind
from saga.core.lifecycle import StallReason, Status
from saga.engine.crashpoints import Point
from tests.integration.application import drifting, fallback, patient, straying, trip, unhurried
from tests.integration.fleet import Fleet, Victim, kinds
from tests.ledger import Kind
from tests.pace import LOST_MAX

pytestmark = [pytest.mark.chaos]

#: The task, what its run needs to come there, and the service and direction that it calls.
DIRECTIONS = {
    "action": ("application.charge", {}, "action"),
    "compensation": ("application.charge.compensate", {"confirm": "abort"}, "compensation"),
    "probe": ("application.charge.probe", {"charge": "fail_once"}, "probe"),
}
POINTS = [Point.WORKER_RECEIVED, Point.WORKER_CLAIMED, Point.WORKER_RAN, Point.WORKER_RECORDED]


#: The kinds of event that put an attempt on a queue, by the direction that they send.
SENT = {
    EventKind.ACTION_SCHEDULED: Direction.ACTION,
    EventKind.ATTEMPT_SCHEDULED: Direction.ACTION,
    EventKind.PROBE_SCHEDULED: Direction.PROBE,
    EventKind.COMPENSATION_SCHEDULED: Direction.COMPENSATION,
}


def _tokens(history: Sequence[Event]) -> Mapping[tuple[str | None, Direction], set[UUID | None]]:
    """The tokens under which each occurrence of a step was sent in each direction.

    A killed node loses what else it held, so any step of any run here may be attempted again, not only the armed one.
    """
    sent: dict[tuple[str | None, Direction], set[UUID | None]] = defaultdict(set)
    for event in history:
        if event.kind in SENT:
            sent[event.key, SENT[event.kind]].add(event.token)
    return sent


def _end(moods: dict[str, str]) -> Status:
    return Status.COMPENSATED if "abort" in moods.values() else Status.COMPLETED


@pytest.mark.parametrize("victim", [Victim.SELF, Victim.GROUP], ids=["f11_child", "f10_node"])
@pytest.mark.parametrize("point", POINTS)
def test_a_worker_killed_at_a_crash_point_is_succeeded_by_another_attempt_with_the_same_token(
    audited: Fleet, point: Point, victim: Victim
) -> None:
    # One run for each direction, all three killed at once: each loses its own worker.
    killed = [(audited.armoury.arm(point, f"^{task}$", victim=victim), moods) for task, moods, _ in DIRECTIONS.values()]
    handles = [
        (audited.start(trip, f"{point}-{victim}-{number}", **moods), moods) for number, (_, moods) in enumerate(killed)
    ]

    for armed, _ in killed:
        audited.fired(armed)
    for handle, moods in handles:
        history = audited.ends(handle, _end(moods))
        assert audited.applied(handle, "charge") == 1
        assert all(len(tokens) == 1 for tokens in _tokens(history).values()), _tokens(history)
        if victim is Victim.SELF and point is Point.WORKER_RECEIVED:  # nobody had claimed it: nothing was lost
            assert EventKind.STEP_LOST not in kinds(history)


def test_f10_worker_parents_killed_in_mid_step_leave_one_outcome(audited: Fleet) -> None:
    # The child outlives its parent for a moment: it may finish, or its claim runs out.
    armed = [
        audited.armoury.arm(Point.WORKER_CLAIMED, f"^{task}$", victim=Victim.PARENT)
        for task, _, _ in DIRECTIONS.values()
    ]

    handles = [(audited.start(trip, f"f10-{name}", **moods), moods) for name, (_, moods, _) in DIRECTIONS.items()]

    for crash in armed:
        audited.fired(crash)
    for handle, moods in handles:
        history = audited.ends(handle, _end(moods))
        assert audited.applied(handle, "charge") == 1
        assert audited.undone(handle, "charge") == (1 if "abort" in moods.values() else 0)
        undos = [e for e in history if e.kind is EventKind.COMPENSATION_SCHEDULED and e.key == "application.charge#1"]
        assert len({event.token for event in undos}) <= 1


def test_f11_a_step_that_kills_every_worker_stalls_its_run_and_the_others_go_on(audited: Fleet) -> None:
    poisons = {
        "action": audited.start(trip, "f11-action", charge="crash"),
        "compensation": audited.start(trip, "f11-compensation", confirm="abort", undo_charge="crash"),
        "probe": audited.start(trip, "f11-probe", charge="fail_once", probe_charge="crash"),
    }
    healthy = [audited.start(trip, f"f11-healthy-{number}") for number in range(5)]

    for direction, poison in poisons.items():
        history = audited.stalls_as(poison, StallReason.POISON_STEP, seconds=40)
        assert kinds(history).count(EventKind.STEP_LOST) == LOST_MAX
        assert audited.attempts(poison, "charge", direction) == list(range(1, LOST_MAX + 1))
    for handle in healthy:
        audited.ends(handle, Status.COMPLETED)


@pytest.mark.parametrize(
    ("task", "moods"),
    [
        ("application.drift", {}),
        ("application.drift.compensate", {"confirm": "abort"}),
        ("application.drift.probe", {"drift": "fail_once"}),
    ],
    ids=DIRECTIONS,
)
def test_f12_the_late_outcome_of_a_worker_frozen_beyond_its_lease_is_fenced(
    audited: Fleet, task: str, moods: dict[str, str]
) -> None:
    armed = audited.armoury.arm(Point.WORKER_CLAIMED, f"^{task}$", victim=Victim.FREEZE)
    handle = audited.start(drifting, f"f12-{task}", **moods)
    frozen = audited.fired(armed)

    history = audited.ends(handle, _end(moods))
    os.kill(frozen, signal.SIGCONT)

    assert EventKind.STEP_LOST in kinds(history)
    run = handle._line.find()
    assert run is not None
    late = "SELECT count(*) FROM saga.incident WHERE kind = 'OutcomeLate' AND run = %s"
    audited.until(lambda: audited.count(late, run.row.id) == 1, "the late outcome is told")
    assert audited.applied(handle, "drift") == 1


def test_f12_a_late_effect_is_undone_again_with_what_it_left(audited: Fleet) -> None:
    # Its undo without a result is done, that of the step before waits at a gate: the late word finds the run alive.
    armed = audited.armoury.arm(Point.WORKER_RAN, "^application.stray$", victim=Victim.FREEZE)
    handle = audited.start(straying, "f12-late", stray="", undo_reserve="gate:f12-late")
    frozen = audited.fired(armed)
    handle.cancel()

    audited.reached("f12-late")
    os.kill(frozen, signal.SIGCONT)
    audited.until(lambda: EventKind.OUTCOME_LATE in kinds(handle.history()), "the late outcome is told")
    audited.open("f12-late")

    history = audited.ends(handle, Status.COMPENSATED)
    undos = [e for e in history if e.kind is EventKind.COMPENSATION_SCHEDULED and e.key == "application.stray#1"]
    assert len({e.token for e in undos}) == len(undos) == 2
    last = audited.ledger.entries(run=handle.address, step="stray", kind=Kind.ATTEMPTED)[-1]
    assert last.call.given.startswith('"stray:')


def test_f13_a_worker_killed_between_effect_and_record_is_probed_and_not_asked_again(audited: Fleet) -> None:
    armed = audited.armoury.arm(Point.WORKER_RAN, "^application.charge$")

    handle = audited.start(trip, "f13-probe")

    audited.fired(armed)
    history = audited.ends(handle, Status.COMPLETED)
    assert EventKind.PROBE_SCHEDULED in kinds(history)
    assert audited.attempts(handle, "charge") == [1]


def test_f13_without_a_probe_the_same_token_is_asked_again(audited: Fleet) -> None:
    armed = audited.armoury.arm(Point.WORKER_RAN, "^application.reserve$")

    handle = audited.start(trip, "f13-retry")

    audited.fired(armed)
    audited.ends(handle, Status.COMPLETED)
    assert audited.attempts(handle, "reserve") == [1, 2]
    assert audited.applied(handle, "reserve") == 1


def test_f14_a_lost_reply_is_unknown_and_found_by_the_probe(audited: Fleet) -> None:
    handle = audited.start(trip, "f14-probe", charge="reply_lost")

    history = audited.ends(handle, Status.COMPLETED)
    assert EventKind.STEP_UNKNOWN in kinds(history)
    assert audited.attempts(handle, "charge") == [1]


def test_f14_a_lost_reply_of_an_undo_is_asked_again(audited: Fleet) -> None:
    handle = audited.start(trip, "f14-undo", confirm="abort", undo_charge="reply_lost")

    audited.ends(handle, Status.COMPENSATED)
    assert audited.attempts(handle, "charge", "compensation") == [1, 2]


def test_f14_an_abort_after_a_lost_reply_does_not_make_it_known(audited: Fleet) -> None:
    # Unknown is sticky: the second attempt speaks for itself only, so what the first one did is undone.
    handle = audited.start(trip, "f14-sticky", reserve="abort_later")

    audited.ends(handle, Status.COMPENSATED)
    assert audited.applied(handle, "reserve") == 1
    assert audited.undone(handle, "reserve") == 1


def test_f15_an_undo_that_overtakes_its_action_is_remembered_by_the_service(audited: Fleet) -> None:
    # Frozen between its claim and its call: nothing on this side can stop it, the service refuses it.
    armed = audited.armoury.arm(Point.WORKER_CLAIMED, "^application.stray$", victim=Victim.FREEZE)
    handle = audited.start(straying, "f15-overtaken")
    frozen = audited.fired(armed)
    handle.cancel()

    audited.ends(handle, Status.COMPENSATED)
    os.kill(frozen, signal.SIGCONT)

    audited.until(
        lambda: audited.ledger.entries(run=handle.address, step="stray", kind=Kind.REFUSED), "the frozen attempt calls"
    )
    assert audited.applied(handle, "stray") == 0


def test_f15_a_cancelled_attempt_that_nobody_has_claimed_claims_nothing(audited: Fleet) -> None:
    workers = [audited.nodes["w1"], audited.nodes["w2"]]
    audited.freeze(*workers)
    handle = audited.start(trip, "f15-unclaimed")
    audited.until(lambda: audited.count("SELECT count(*) FROM saga.task") == 1, "its first step is queued")

    handle.cancel()
    history = audited.ends(handle, Status.COMPENSATED)
    audited.thaw(*workers)

    assert EventKind.STEP_NEVER_STARTED in kinds(history)
    dropped = "dropped a message: attempt 1 of application.reserve for trip/f15-unclaimed"
    audited.until(lambda: any(dropped in worker.said() for worker in workers), "its message is consumed")
    assert audited.attempts(handle, "reserve") == []


def test_a_long_step_renews_its_lease_and_runs_once(audited: Fleet) -> None:
    handle = audited.start(patient, "long", crawl="gate:long")
    audited.reached("long")

    renewed = "SELECT count(*) FROM saga.task WHERE claimed_at < clock_timestamp() - interval '4 seconds'"
    audited.until(lambda: audited.count(renewed) == 1, "its claim is twice as old as a lease")
    audited.open("long")

    history = audited.ends(handle, Status.COMPLETED)
    assert EventKind.STEP_LOST not in kinds(history)
    assert audited.attempts(handle, "crawl") == [1]


def test_f25_a_failed_step_is_undone_in_reverse(audited: Fleet) -> None:
    handle = audited.start(trip, "f25-undo", confirm="abort")

    audited.ends(handle, Status.COMPENSATED)
    undone = [e.call.step for e in audited.ledger.entries(run=handle.address) if e.kind == "undone"]
    assert undone == ["charge", "reserve"]


def test_f25_a_compensation_that_fails_for_good_stalls_and_is_retried_by_an_operator(audited: Fleet) -> None:
    handle = audited.start(trip, "f25-stall", confirm="abort", undo_charge="abort")
    history = audited.stalls_as(handle, StallReason.COMPENSATION_GAVE_UP)
    assert audited.undone(handle, "reserve") == 0

    stuck = next(event.key for event in history if event.kind is EventKind.RUN_STALLED)
    assert stuck is not None
    handle.resolve(stuck, evidence="the bank said so on the telephone")
    del audited.stalls[handle.address]
    audited.resolved.add(handle.address)

    audited.until(lambda: audited.status(handle) is Status.COMPENSATED, "it goes on")
    assert audited.undone(handle, "reserve") == 1


def test_f25_after_the_pivot_a_failed_step_stalls_and_nothing_is_undone(audited: Fleet) -> None:
    handle = audited.start(trip, "f25-pivot", book="abort")

    audited.stalls_as(handle, StallReason.FAILED_AFTER_PIVOT)
    assert audited.undone(handle, "reserve") == 0
    assert audited.undone(handle, "charge") == 0


def test_a_saga_that_catches_a_failed_step_goes_on_without_paying_twice(audited: Fleet) -> None:
    handle = audited.start(fallback, "fallback", charge="reply_always_lost")

    audited.ends(handle, Status.COMPLETED)
    # The probe finds the first charge: it stands, and the other way is not taken.
    assert audited.applied(handle, "charge") == 1
    other = audited.start(fallback, "fallback-abort", charge="abort")
    audited.ends(other, Status.COMPLETED)
    assert audited.applied(other, "charge") == 0
    assert audited.applied(other, "book") == 1


def test_f28_cancels_race_the_end_and_one_end_stands(audited: Fleet) -> None:
    handles = [audited.start(trip, f"f28-{number}") for number in range(12)]
    for number, handle in enumerate(handles):
        audited.until(lambda handle=handle: audited.status(handle) is not None, "it runs")  # type: ignore[misc]
        for _ in range(1 + number % 3):
            audited.cancel(handle)

    over = (Status.COMPLETED, Status.COMPENSATED)
    for handle in handles:
        audited.until(lambda handle=handle: audited.status(handle) in over, "it ends")  # type: ignore[misc]
        if audited.status(handle) is Status.COMPENSATED:
            assert audited.undone(handle, "reserve") >= audited.applied(handle, "reserve")


def test_f28_a_cancel_while_undoing_is_refused_in_the_log(audited: Fleet) -> None:
    handle = audited.start(trip, "f28-undoing", confirm="abort", undo_charge="gate:f28")
    audited.reached("f28")

    handle.cancel()
    audited.until(lambda: EventKind.CANCEL_REFUSED in kinds(handle.history()), "the cancel is answered")
    audited.open("f28")

    audited.ends(handle, Status.COMPENSATED)


def test_a_time_limit_that_a_call_site_lifts_cuts_nothing_off(audited: Fleet) -> None:
    # Both limits of the step itself pass while it stands at the gate.
    handle = audited.start(unhurried, "unhurried", reserve="gate:unhurried")
    audited.reached("unhurried")
    overdue = "SELECT count(*) FROM saga.task WHERE claimed_at < clock_timestamp() - interval '3 seconds'"
    audited.until(lambda: audited.count(overdue) == 1, "it has been running for longer than a step may")
    audited.open("unhurried")

    audited.ends(handle, Status.COMPLETED)
    assert audited.attempts(handle, "reserve") == [1]
