"""What each event makes of a run, live and in replay alike. It changes the state it is given; it decides nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from saga.core import landing, steps
from saga.core.attempts import termination
from saga.core.effects import AnswerParent, ReleaseLocks, Report
from saga.core.events import OUTCOMES, Event, EventKind, Parent, parent_of
from saga.core.lifecycle import Cause, StallReason, Status
from saga.core.outcome import json_after
from saga.core.state import State
from saga.core.tracks import Phase
from saga.core.waits import Wait


def apply(state: State, event: Event) -> None:
    """Take one event into account."""
    state.seq = event.seq
    state.at = event.at
    FOLDS[event.kind](state, event)


# -- the start, and what is asked of the run ---------------------------------------------------------------------------


def _run_started(state: State, event: Event) -> None:
    value = json.loads(event.payload or "{}")
    state.version = value["version"]
    state.timeout_seconds = value.get("timeout")
    state.parent = parent_of(value)
    if value.get("undoes"):
        state.undoes = UUID(value["undoes"])
        state.cancel_asked = Cause.PARENT_UNDONE
        for name, due_at in state.unheard.items():
            state.set_timer(name, due_at)
    state.input = json_after(event.payload or "", "input")
    if state.timeout_seconds is not None:
        state.set_timer("timeout", event.at + timedelta(seconds=state.timeout_seconds))


def _cancel_requested(state: State, _: Event) -> None:
    state.cancel_asked = Cause.CANCELLED


def _cancel_refused(state: State, _: Event) -> None:
    state.cancel_asked = None


def _terminate_requested(state: State, _: Event) -> None:
    state.terminate_asked = True


def _retry_requested(state: State, event: Event) -> None:
    state.suspended = None
    steps.retried(state, event)


def _run_stalled(state: State, event: Event) -> None:
    reason = StallReason(json.loads(event.payload or "{}")["reason"])
    if event.token is None:
        state.suspended = reason
    else:
        steps.stuck(state, event, reason)


# -- waits and timers --------------------------------------------------------------------------------------------------


def _signal_received(state: State, event: Event) -> None:
    name = json.loads(event.payload or "{}")["signal"]
    settled = state.mailbox.receive(event, name, json_after(event.payload or "", "value"))
    if settled is not None:
        state.settle(settled, event.seq)


def _signal_awaited(state: State, event: Event) -> None:
    assert event.key is not None
    wait = Wait(event.key, signal=json.loads(event.payload or "{}")["signal"])
    state.waits[event.key] = wait
    if state.mailbox.wait(wait, event.seq):
        state.settle(wait, event.seq)


def _timer_started(state: State, event: Event) -> None:
    assert event.key is not None
    state.waits[event.key] = Wait(event.key)
    state.set_timer(f"timer:{event.key}", datetime.fromisoformat(json.loads(event.payload or "{}")["due_at"]))


def _wait_dropped(state: State, event: Event) -> None:
    assert event.key is not None
    wait = state.waits[event.key]
    wait.dropped = True
    if wait.signal is not None:
        heir = state.mailbox.drop(wait, event.seq)
        if heir is not None:
            state.settle(heir, event.seq)
    else:
        state.drop_timer(f"timer:{event.key}")


def _timer_fired(state: State, event: Event) -> None:
    assert event.key is not None
    if event.key not in state.timers:
        return  # it was cancelled while it fired
    state.timers.discard(event.key)
    what, _, occurrence = event.key.partition(":")
    if what == "timeout":
        state.cancel_asked = state.cancel_asked or Cause.TIMED_OUT
    elif what == "timer":
        state.settle(state.waits[occurrence], event.seq)
    else:
        steps.timer_fired(state, what, state.steps[occurrence])


# -- what the function says --------------------------------------------------------------------------------------------


def _update_answered(_state: State, _event: Event) -> None:
    """Nothing: the sender reads the answer in the log."""


def _state_set(state: State, event: Event) -> None:
    state.shown = event.payload


def _attributes_set(state: State, event: Event) -> None:
    state.attributes = {**state.attributes, **json.loads(event.payload or "{}")}


def _pivot_passed(state: State, _: Event) -> None:
    state.pivoted = True
    state.drop_timer("timeout")


def _savepoint_set(state: State, event: Event) -> None:
    assert event.key is not None
    state.savepoints[event.key] = event.seq


def _rollback_asked(state: State, event: Event) -> None:
    assert event.key is not None
    for step in state.since(event.key):
        step.discarded = step.in_turn = True
        steps.call_back(state, step)
        state.touch(step)


# -- the way back, and the end -----------------------------------------------------------------------------------------


def _run_failed(state: State, event: Event) -> None:
    state.failure = event.payload


def _run_compensating(state: State, event: Event) -> None:
    value = json.loads(event.payload or "{}")
    state.undoing = True
    state.suspended = None
    state.cause = Cause(value["cause"])
    state.cancel_asked = None
    state.mailbox.open.clear()
    for name in sorted(state.timers):
        if name == "timeout" or name.startswith("timer:"):
            state.drop_timer(name)
    for step in state.steps.values():
        steps.call_back(state, step)
        state.dirty[step.occurrence] = step


def _run_completed(state: State, event: Event) -> None:
    state.result = event.payload
    _end(state, Status.COMPLETED)


def _run_compensated(state: State, _: Event) -> None:
    _end(state, Status.COMPENSATED)


def _run_terminated(state: State, _: Event) -> None:
    for step in state.steps.values():
        for track in step.tracks:
            effect = termination(step, track) if track.phase is Phase.IN_FLIGHT else None
            if effect is not None:
                state.effects.append(effect)
    _end(state, Status.TERMINATED)


def _end(state: State, status: Status) -> None:
    state.ended = status
    state.suspended = None
    for name in sorted(state.timers):
        state.drop_timer(name)
    state.effects.extend(Report(EventKind.SIGNAL_RECEIVED, left) for left in state.mailbox.leftovers())
    if state.locks:
        state.effects.append(ReleaseLocks())
    if state.parent is not None:
        state.effects.append(_answer(state, state.parent, status))


def _answer(state: State, parent: Parent, status: Status) -> AnswerParent:
    if status is Status.COMPLETED or (state.undoes is not None and status is Status.COMPENSATED):
        kind, value = EventKind.STEP_SUCCEEDED, state.result or "null"
    else:
        said = json.loads(state.failure)["message"] if state.failure else state.cause or status
        value = json.dumps({"type": "", "message": f"the child run ended {status}: {said}"})
        ended_for_good = status is Status.COMPENSATED or state.undoes is not None
        kind = EventKind.STEP_FAILED if ended_for_good else EventKind.STEP_UNKNOWN
    return AnswerParent(parent, kind, f'{{"pivoted":{json.dumps(state.pivoted)},"value":{value}}}')


#: How each kind of event is folded.
FOLDS: dict[EventKind, Callable[[State, Event], None]] = {
    EventKind.RUN_STARTED: _run_started,
    **dict.fromkeys(OUTCOMES, landing.answered),
    EventKind.OUTCOME_LATE: landing.answered_late,
    EventKind.TIMER_FIRED: _timer_fired,
    EventKind.CANCEL_REQUESTED: _cancel_requested,
    EventKind.TERMINATE_REQUESTED: _terminate_requested,
    EventKind.RETRY_REQUESTED: _retry_requested,
    EventKind.RESOLVED: landing.resolved,
    EventKind.SIGNAL_RECEIVED: _signal_received,
    EventKind.ACTION_SCHEDULED: steps.started,
    EventKind.PIVOT_PASSED: _pivot_passed,
    EventKind.STEP_DISCARDED: steps.discarded,
    EventKind.SIGNAL_AWAITED: _signal_awaited,
    EventKind.TIMER_STARTED: _timer_started,
    EventKind.WAIT_DROPPED: _wait_dropped,
    EventKind.UPDATE_ANSWERED: _update_answered,
    EventKind.STATE_SET: _state_set,
    EventKind.ATTRIBUTES_SET: _attributes_set,
    EventKind.SAVEPOINT_SET: _savepoint_set,
    EventKind.ROLLBACK_ASKED: _rollback_asked,
    EventKind.RUN_COMPLETED: _run_completed,
    EventKind.RUN_FAILED: _run_failed,
    EventKind.ATTEMPT_SCHEDULED: steps.scheduled,
    EventKind.PROBE_SCHEDULED: steps.scheduled,
    EventKind.COMPENSATION_SCHEDULED: steps.scheduled,
    EventKind.RETRY_SET: steps.retry_set,
    EventKind.STEP_GAVE_UP: steps.gave_up,
    EventKind.CANCEL_REFUSED: _cancel_refused,
    EventKind.RUN_COMPENSATING: _run_compensating,
    EventKind.RUN_COMPENSATED: _run_compensated,
    EventKind.RUN_TERMINATED: _run_terminated,
    EventKind.RUN_STALLED: _run_stalled,
}
