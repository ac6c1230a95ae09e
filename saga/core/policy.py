"""What follows from where a run stands: retries, probes, undo, stalls. It reads a State and emits events, no more."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Protocol
from uuid import UUID

from saga.core.events import Direction, EventKind
from saga.core.lifecycle import Cause, StallReason
from saga.core.state import State
from saga.core.tracks import Phase, StepState, Track

#: Attempts of one direction of a step that may be lost (dead or frozen workers) before the step counts as poison.
LOST_MAX = 5
#: Attempts of one direction of a step that may be lost because Postgres crashed: the step may be what crashes it.
FORGOTTEN_MAX = 20
#: Attempts that workers may hand back undecoded before the run stalls.
NOT_RUN_MAX = 10


class Emit(Protocol):
    """Appends one event to the run's log and applies it."""

    def __call__(
        self,
        kind: EventKind,
        *,
        token: UUID | None = None,
        attempt: int | None = None,
        key: str | None = None,
        payload: str | None = None,
    ) -> None: ...


def reconcile(state: State, emit: Emit, now: datetime) -> None:
    """Emit everything that policy wants in this state; nothing is left to decide when it returns."""
    if state.ended is not None:
        return
    if state.terminate_asked:
        emit(EventKind.RUN_TERMINATED)
        return
    if state.cancel_asked is not None:
        if state.pivoted or state.undoing:
            why = "the run is past its pivot" if state.pivoted else "the run is being undone already"
            emit(EventKind.CANCEL_REFUSED, payload=json.dumps({"reason": why}))
        else:
            start_undo(emit, state.cancel_asked)
    if state.suspended is not None:
        return
    while state.dirty:
        # In the order of their start, so that a run decides alike whether it stayed in memory or came from its log.
        touched = sorted(state.dirty.values(), key=lambda step: step.scheduled_seq)
        state.dirty.clear()
        for step in touched:
            _decide(state, step, emit, now)
    if state.undoing:
        _undo(state, emit)
    elif state.savepoints:
        _roll_back(state, emit)


def start_undo(emit: Emit, cause: Cause) -> None:
    """Turn the run round: from here on it only goes back."""
    emit(EventKind.RUN_COMPENSATING, payload=json.dumps({"cause": cause}))


def _decide(state: State, step: StepState, emit: Emit, now: datetime) -> None:
    for track in step.tracks:
        if track.phase is Phase.DUE:
            if track.direction is Direction.COMPENSATION:
                _compensation_ended(step, track, emit, now)
            elif track.direction is Direction.PROBE:
                _probe_ended(state, step, track, emit, now)
            else:
                _action_ended(state, step, track, emit, now)
        elif track.phase is Phase.READY:
            _schedule(step, track, emit)
    if not state.undoing and step.wants_undo_now and step.undo is not None and step.undo.phase is Phase.IDLE:
        _schedule(step, step.undo, emit)


def _schedule(step: StepState, track: Track, emit: Emit) -> None:
    if step.irrevocable and track.direction is Direction.COMPENSATION:
        message = "the child run passed its pivot: nothing of it goes back by itself"
        _stall(step, track, emit, StallReason.COMPENSATION_GAVE_UP, message)
        return
    kind = {
        Direction.ACTION: EventKind.ATTEMPT_SCHEDULED,
        Direction.PROBE: EventKind.PROBE_SCHEDULED,
        Direction.COMPENSATION: EventKind.COMPENSATION_SCHEDULED,
    }[track.direction]
    emit(kind, token=track.token, attempt=track.attempt + 1, key=step.occurrence)


def _wait(step: StepState, track: Track, emit: Emit, delay_seconds: float) -> None:
    if delay_seconds <= 0:
        _schedule(step, track, emit)
    else:
        payload = json.dumps({"after_seconds": round(delay_seconds, 6)})
        emit(EventKind.RETRY_SET, token=track.token, attempt=track.attempt + 1, key=step.occurrence, payload=payload)


def _stall(step: StepState, track: Track, emit: Emit, reason: StallReason, message: str) -> None:
    payload = json.dumps({"reason": reason, "message": message})
    emit(EventKind.RUN_STALLED, token=track.token, attempt=track.attempt, key=step.occurrence, payload=payload)


def _in_time(track: Track, now: datetime, delay_seconds: float) -> bool:
    deadline = track.policy.deadline_seconds
    if deadline is None or track.began_at is None:
        return True
    return (now - track.began_at).total_seconds() + delay_seconds < deadline


def _action_ended(state: State, step: StepState, track: Track, emit: Emit, now: datetime) -> None:
    if state.undoing or step.discarded:
        _give_up(state, step, track, emit, "")
        return
    if _hand_back(step, track, emit):
        return
    delay = track.policy.retry.delay_seconds(track.used, track.token)
    match track.ended:
        case EventKind.STEP_POSTPONED:
            if _in_time(track, now, track.postponed_seconds):
                _wait(step, track, emit, track.postponed_seconds)
            else:
                _give_up(state, step, track, emit, "its deadline passed")
        case EventKind.STEP_UNKNOWN | EventKind.STEP_LOST if step.probe is not None:
            _wait(step, step.probe, emit, 0 if track.ended is EventKind.STEP_LOST else delay)
        case EventKind.STEP_LOST:
            _retry(state, step, track, emit, now, 0)
        case EventKind.STEP_UNKNOWN | EventKind.STEP_ROLLED_BACK:
            _retry(state, step, track, emit, now, delay)
        case EventKind.STEP_NEVER_STARTED:
            late = "no worker claimed it before its deadline" if step.link is None else "it did not come in time"
            _give_up(state, step, track, emit, late)
        case _:
            _give_up(state, step, track, emit, "")


def _retry(state: State, step: StepState, track: Track, emit: Emit, now: datetime, delay_seconds: float) -> None:
    if not track.policy.retry.allows(track.used):
        _give_up(state, step, track, emit, "its attempts are used up")
    elif not _in_time(track, now, delay_seconds):
        _give_up(state, step, track, emit, "its deadline passed")
    else:
        _wait(step, track, emit, delay_seconds)


def _give_up(state: State, step: StepState, track: Track, emit: Emit, message: str) -> None:
    if state.pivoted and not step.discarded and not step.may_fail:
        said = json.loads(step.failure)["message"] if step.failure else ""
        _stall(step, track, emit, StallReason.FAILED_AFTER_PIVOT, message or said)
    else:
        payload = json.dumps({"reason": message}) if message else None
        emit(EventKind.STEP_GAVE_UP, token=step.action.token, key=step.occurrence, payload=payload)


def _hand_back(step: StepState, track: Track, emit: Emit) -> bool:
    """Decide what is the same in every direction: attempts lost, or handed back undecoded."""
    if track.ended is EventKind.STEP_LOST and track.lost >= LOST_MAX:
        message = f"{track.lost} attempts were lost with their workers"
        _stall(step, track, emit, StallReason.POISON_STEP, message)
        return True
    if track.ended is EventKind.STEP_LOST and track.forgotten >= FORGOTTEN_MAX:
        message = f"Postgres crashed {track.forgotten} times while its attempts were queued or under way"
        _stall(step, track, emit, StallReason.POISON_STEP, message)
        return True
    if track.ended is EventKind.STEP_NOT_RUN:
        if track.not_run >= NOT_RUN_MAX:
            message = f"{track.not_run} workers could not decode its input: deploy code that can, then retry"
            _stall(step, track, emit, StallReason.NOT_DECODED, message)
        else:
            _wait(step, track, emit, track.policy.retry.delay_seconds(track.not_run, track.token))
        return True
    return False


def _probe_ended(state: State, step: StepState, probe: Track, emit: Emit, now: datetime) -> None:
    if state.undoing or step.discarded:
        _give_up(state, step, step.action, emit, "")
    elif _hand_back(step, probe, emit):
        return
    elif probe.ended is EventKind.STEP_SUCCEEDED:  # no trace now: it may be asked again
        _retry(state, step, step.action, emit, now, 0)
    elif probe.ended is EventKind.STEP_LOST:
        _wait(step, probe, emit, 0)
    elif probe.ended is EventKind.STEP_POSTPONED and _in_time(probe, now, probe.postponed_seconds):
        _wait(step, probe, emit, probe.postponed_seconds)
    elif probe.policy.retry.allows(probe.used) and _in_time(probe, now, 0):
        _wait(step, probe, emit, probe.policy.retry.delay_seconds(probe.used, probe.token))
    else:
        _give_up(state, step, step.action, emit, "its probe gave up, so nobody knows whether it landed")


def _compensation_ended(step: StepState, track: Track, emit: Emit, now: datetime) -> None:
    if _hand_back(step, track, emit):
        return
    said = json.loads(track.failure)["message"] if track.failure else ""
    if track.ended is EventKind.STEP_FAILED:
        _stall(step, track, emit, StallReason.COMPENSATION_GAVE_UP, said)
        return
    delay = track.policy.retry.delay_seconds(track.used, track.token)
    if track.ended is EventKind.STEP_LOST:
        delay = 0
    if track.ended is EventKind.STEP_POSTPONED:
        delay = track.postponed_seconds
    if track.policy.retry.allows(track.used) and _in_time(track, now, delay):
        _wait(step, track, emit, delay)
    else:
        _stall(step, track, emit, StallReason.COMPENSATION_GAVE_UP, said)


def _undo(state: State, emit: Emit) -> None:
    """Undo all that stands, and end when nothing does."""
    if not state.standing and not state.unfinished:
        emit(EventKind.RUN_COMPENSATED)
    else:
        _send_back(list(state.unfinished.values()), list(state.standing.values()), emit)


def _roll_back(state: State, emit: Emit) -> None:
    """Undo what was started since a save-point."""
    rolled = [step for step in state.unfinished.values() if step.in_turn]
    _send_back(rolled, [step for step in rolled if step.may_stand], emit)


def _send_back(unfinished: list[StepState], standing: list[StepState], emit: Emit) -> None:
    """Undo what stands, newest start first; steps that overlapped are undone together."""
    if not standing or any(not step.over for step in unfinished):
        return  # an attempt in flight may still land: it is awaited before anything is undone
    newest_start = max(step.scheduled_seq for step in standing)
    for step in standing:
        # A step may go back when none that began after its end still stands.
        if step.undo is not None and step.undo.phase is Phase.IDLE and (step.ended_seq or 0) >= newest_start:
            _schedule(step, step.undo, emit)
