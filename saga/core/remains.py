"""What an ended run has left, as the state in which the run that undoes it begins. It asks the world for nothing."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from saga.core.attempts import over_at
from saga.core.events import Direction, Event, EventKind
from saga.core.fold import apply
from saga.core.pinned import LockLink
from saga.core.state import State
from saga.core.tracks import Phase, StepState, Track
from saga.core.waits import Mailbox


def remains_of(run: UUID, log: Iterable[Event]) -> State:
    """Return what a run left when it ended, ready to be undone as a run of its own; its tokens stay that run's.

    Behind its log may stand those of earlier attempts at that: what they did is done.
    """
    state = State(run)
    begun = False
    for event in log:
        if begun and event.kind is EventKind.RUN_STARTED:
            _begin_anew(state)
        begun = True
        apply(state, event)
    _begin_anew(state)
    return state


def _begin_anew(state: State) -> None:
    """Go on from where a run stood at its end: what was in flight was ended with it, and nobody hears of it."""
    unheard, state.unheard = state.unheard, {}
    for step in state.steps.values():
        for track in step.tracks:
            if track.direction is Direction.COMPENSATION:
                _leave_undo(state, step, track, unheard)
            elif track is step.probe and track.phase is not Phase.DONE:
                track.phase = Phase.DONE
            elif track.phase is not Phase.DONE:
                _leave_action(state, step, track, unheard)
        state.touch(step)
    state.seq, state.at = 0, None
    state.ended = state.result = state.failure = state.suspended = state.cause = state.parent = None
    state.terminate_asked = state.undoing = state.locks = False
    state.cancel_asked = None
    state.stuck.clear()
    state.timers.clear()
    state.mailbox = Mailbox()
    state.effects.clear()


def _leave_undo(state: State, step: StepState, track: Track, unheard: dict[str, datetime]) -> None:
    name, over = step.timer_before(track), _over_at(state, track)
    if track.phase is Phase.IN_FLIGHT and over is not None and step.link is None:
        track.phase = Phase.WAITING
        state.unheard[name] = over
    elif track.phase is Phase.WAITING and name in unheard:
        state.unheard[name] = unheard[name]
    elif track.phase in (Phase.IN_FLIGHT, Phase.STUCK, Phase.WAITING, Phase.DUE):
        track.phase = Phase.READY


def _leave_action(state: State, step: StepState, track: Track, unheard: dict[str, datetime]) -> None:
    name, over = f"unheard:{step.occurrence}", _over_at(state, track)
    step.ended_seq = step.ended_seq or state.seq
    if track.phase is not Phase.IN_FLIGHT:
        step.end_action(state.seq)
    elif step.link is None and over is not None:
        state.unheard[name] = unheard.get(name, over)  # it may still land: it is not undone before that is over
    else:
        step.unknown = not isinstance(step.link, LockLink)
        step.end_action(state.seq)


def _over_at(state: State, track: Track) -> datetime | None:
    return None if state.at is None else over_at(track, state.at)
