"""What comes to be known of whether a step landed: how its attempts ended, in time or late, and an operator's word.

It changes the state it is given; what follows, policy decides.
"""

from __future__ import annotations

import json
from typing import Any

from saga.core.events import NOBODY, Direction, Event, EventKind
from saga.core.outcome import found, json_after, progress_of, unwrap
from saga.core.state import State
from saga.core.steps import fence
from saga.core.tracks import Phase, StepState, Track

#: Kinds of a late outcome under which the effect is there, or may be.
_MAY_HAVE_LANDED = (EventKind.STEP_SUCCEEDED, EventKind.STEP_UNKNOWN, EventKind.STEP_REFUSED)


def answered(state: State, event: Event) -> None:
    """Note how an attempt ended."""
    if event.claimant is not None and event.kind is not EventKind.STEP_LOST:
        state.claimants.add(event.claimant)  # who was lost has told nothing yet
    known = state.tokens.get(event.token) if event.token else None
    if known is None or known[1].phase is not Phase.IN_FLIGHT or known[1].attempt != event.attempt:
        return
    step, track = known
    kind = event.kind
    if step.link is not None:
        step.irrevocable = step.irrevocable or bool(json.loads(event.payload or "{}").get("pivoted"))
    track.ended = kind
    track.phase = Phase.DUE
    if kind is not EventKind.STEP_SUCCEEDED:
        track.progress = progress_of(event.payload) or track.progress
    if kind in (EventKind.STEP_FAILED, EventKind.STEP_ROLLED_BACK, EventKind.STEP_UNKNOWN, EventKind.STEP_REFUSED):
        track.used += 1
        _failed(step, track, event)
    elif kind is EventKind.STEP_LOST:
        if event.claimant == NOBODY:
            track.forgotten += 1
        else:
            track.lost += 1
    elif kind is EventKind.STEP_NOT_RUN:
        track.not_run += 1
        _failed(step, track, event)
    elif kind is EventKind.STEP_POSTPONED:
        track.postponed_seconds = float(json.loads(unwrap(event.payload) or "1"))
    elif kind is EventKind.STEP_SUCCEEDED:
        _succeeded(state, step, track, event)
    if track.direction is Direction.ACTION and (
        kind in (EventKind.STEP_UNKNOWN, EventKind.STEP_REFUSED)
        # Had a transactional one landed, its outcome would be here instead; it can only roll back any more.
        or (kind is EventKind.STEP_LOST and not step.transactional)
    ):
        step.unknown = True
    if step.succeeded and track.direction is not Direction.COMPENSATION:
        track.phase = Phase.DONE
    state.touch(step)


def answered_late(state: State, event: Event) -> None:
    """Note what a fenced worker tells of an attempt that was given up without it."""
    if event.claimant is not None:
        state.claimants.add(event.claimant)
    known = state.tokens.get(event.token) if event.token else None
    told: dict[str, Any] = json.loads(event.payload or "{}")
    kind = told.get("kind")
    if known is None or kind not in _MAY_HAVE_LANDED or known[1].direction is not Direction.ACTION:
        return
    step, _ = known
    landed = kind == EventKind.STEP_SUCCEEDED
    result = (unwrap(json_after(event.payload or "", "payload")) or "null") if landed else None
    if not step.succeeded and not step.gave_up:
        step.unknown = True
        if result is not None:
            _landed(state, step, result, event.seq)
            fence(state, step)
    else:
        if not step.succeeded:
            step.result = result or step.result
            step.unknown = True
        # It may have acted after its undo: it is undone once more, for nobody else will tell.
        if step.undo is not None and step.undo.phase is Phase.IN_FLIGHT:
            step.undo_again = True
        elif step.undo is not None and step.undone:
            step.undone = False
            _undo_once_more(state, step)
    state.touch(step)


def resolved(state: State, event: Event) -> None:
    """Let an operator's evidence stand for an outcome."""
    for token in list(state.stuck):
        step, track = state.tokens[token]
        if event.key != step.occurrence:
            continue
        state.unstick(track)
        track.phase = Phase.DONE
        if track.direction is Direction.COMPENSATION:
            _undone(step, event.seq)
        else:
            _landed(state, step, json_after(event.payload or "", "result") or "null", event.seq)
        state.touch(step)


def _failed(step: StepState, track: Track, event: Event) -> None:
    track.failure = unwrap(event.payload) or track.failure
    if track.direction is Direction.ACTION:
        step.failure = track.failure


def _succeeded(state: State, step: StepState, track: Track, event: Event) -> None:
    value = unwrap(event.payload)
    match track.direction:
        case Direction.ACTION:
            _landed(state, step, value or "null", event.seq)
        case Direction.PROBE:
            result = found(value)
            if result is not None:
                _landed(state, step, result, event.seq)
        case Direction.COMPENSATION:
            track.phase = Phase.DONE
            if step.undo_again:
                _undo_once_more(state, step)
            else:
                _undone(step, event.seq)


def _landed(state: State, step: StepState, result: str, seq: int) -> None:
    if step.gave_up:  # its retries were over when this came to light: it counts for the undo only
        step.result = result
        step.unknown = True
        return
    if step.succeeded:  # the first answer counts: the function may have acted on it
        return
    step.succeeded = True
    step.result = result
    step.ended_seq = step.ended_seq or seq
    step.settled_seq = step.settled_seq or seq
    for track in (step.action, step.probe):
        if track is not None and track.phase is not Phase.IN_FLIGHT:
            state.drop_timer(step.timer_before(track))
            state.unstick(track)
            track.phase = Phase.DONE
    state.drop_timer(f"deadline:{step.occurrence}")


def _undone(step: StepState, seq: int) -> None:
    step.undone = True
    if step.settled_seq is None:
        step.settled_seq = seq


def _undo_once_more(state: State, step: StepState) -> None:
    track = step.undo_once_more(state.run)
    state.tokens[track.token] = (step, track)
