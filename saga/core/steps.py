"""What each event makes of a step, but for the answers: scheduled, waiting, called back, given up, stuck.

It changes the state it is given, and asks the world for what the event says; it decides nothing.
"""

from __future__ import annotations

import json
from datetime import timedelta

from saga.core.attempts import request, withdrawal
from saga.core.effects import TellChild
from saga.core.events import Direction, Event, EventKind, token_of
from saga.core.lifecycle import StallReason
from saga.core.pinned import LockLink, read_action
from saga.core.state import State
from saga.core.tracks import Phase, StepState, Track

# -- attempts ----------------------------------------------------------------------------------------------------------


def started(state: State, event: Event) -> None:
    """Take a new step in, and dispatch its first attempt."""
    assert event.key is not None and event.payload is not None and event.token is not None
    told, given = read_action(event.payload)
    policy, task = told.policy, told.task
    probe: Track | None = None
    undo: Track | None = None
    if told.probe:
        token = token_of(state.run, event.key, Direction.PROBE)
        probe = Track(token, Direction.PROBE, policy, f"{task}.probe")
    if told.undo is not None:
        token = token_of(state.run, event.key, Direction.COMPENSATION)
        undo = Track(token, Direction.COMPENSATION, told.undo, f"{task}.compensate")
    action = Track(event.token, Direction.ACTION, policy, task)
    step = StepState(event.key, given, event.seq, event.at, action, probe, undo, told.link)
    step.transactional = told.transactional
    state.locks = state.locks or isinstance(told.link, LockLink)
    state.add(step)
    _dispatch(state, step, action, event)
    if policy.deadline_seconds is not None:
        state.set_timer(f"deadline:{event.key}", event.at + timedelta(seconds=policy.deadline_seconds))
    state.touch(step)


def scheduled(state: State, event: Event) -> None:
    """Dispatch another attempt of an action, or one of a probe or a compensation."""
    assert event.token is not None
    step, track = state.tokens[event.token]
    _dispatch(state, step, track, event)
    state.touch(step)


def _dispatch(state: State, step: StepState, track: Track, event: Event) -> None:
    step.choose(track)
    track.attempt = event.attempt or 1
    track.phase = Phase.IN_FLIGHT
    if track.began_at is None:
        track.began_at = event.at
    if track.direction is Direction.COMPENSATION:
        step.undo_again = False
    state.effects.append(request(step, track))


def retry_set(state: State, event: Event) -> None:
    """Wait for the time of the next attempt."""
    assert event.token is not None and event.payload is not None
    step, track = state.tokens[event.token]
    step.choose(track)
    track.phase = Phase.WAITING
    delay = float(json.loads(event.payload)["after_seconds"])
    state.set_timer(step.timer_before(track), event.at + timedelta(seconds=delay))
    state.touch(step)


def timer_fired(state: State, what: str, step: StepState) -> None:
    """Go on after one of its timers: `what` is a direction, `deadline` or `unheard`."""
    if what == "unheard":
        step.unknown = step.unknown or not step.succeeded
        step.end_action(state.seq)
    elif what == "deadline":
        if not step.succeeded and not step.gave_up:
            fence(state, step)
    else:
        track = next(track for track in step.tracks if track.direction == what)
        if track.phase is Phase.WAITING:
            track.phase = Phase.READY
    state.touch(step)


# -- no more attempts --------------------------------------------------------------------------------------------------


def gave_up(state: State, event: Event) -> None:
    """Note that the action is not tried any more."""
    assert event.token is not None
    step, _ = state.tokens[event.token]
    step.gave_up = True
    step.ended_seq = step.ended_seq or event.seq
    for track in (step.action, step.probe):
        if track is not None:
            state.unstick(track)
            track.phase = Phase.DONE
    if step.failure is None and event.payload is not None:
        step.failure = json.dumps({"type": "", "message": json.loads(event.payload)["reason"]})
    if not step.may_stand:
        step.settled_seq = event.seq
    state.drop_timer(f"deadline:{step.occurrence}")
    state.touch(step)


def discarded(state: State, event: Event) -> None:
    """Call back what lost a `first`."""
    assert event.key is not None
    step = state.steps[event.key]
    step.discarded = True
    call_back(state, step)
    state.touch(step)


def call_back(state: State, step: StepState) -> None:
    """Note that a step is not wanted any more: nothing of it is retried, and no operator has to decide about it."""
    for track in (step.action, step.probe):
        if track is not None and track.phase is Phase.STUCK:
            state.unstick(track)
            track.phase = Phase.DUE
    fence(state, step)


def fence(state: State, step: StepState) -> None:
    """Ask that what no worker has claimed of an action or probe be taken back, and stop waiting to retry it."""
    for track in (step.action, step.probe):
        if track is not None and track.phase is Phase.IN_FLIGHT:
            effect = withdrawal(step, track)
            if effect is not None:
                state.effects.append(effect)
                step.told_to_end = isinstance(effect, TellChild)
        elif track is not None and track.phase in (Phase.WAITING, Phase.READY):
            state.drop_timer(step.timer_before(track))
            track.phase = Phase.DUE


# -- operators ---------------------------------------------------------------------------------------------------------


def stuck(state: State, event: Event, reason: StallReason) -> None:
    """Note that only an operator helps."""
    assert event.token is not None
    step, track = state.tokens[event.token]
    step.choose(track)
    track.phase = Phase.STUCK
    state.stuck[track.token] = reason
    state.touch(step)


def retried(state: State, event: Event) -> None:
    """Let what is stuck be tried again, of one step or of all."""
    for token in list(state.stuck):
        step, track = state.tokens[token]
        if event.key is None or event.key == step.occurrence:
            state.unstick(track)
            track.renew()
            if step.probe is not None and track is step.action:
                step.probe.renew()
            if track.direction is Direction.ACTION and step.unknown:
                track.ended = EventKind.STEP_LOST  # look for a trace before it is asked again
                track.phase = Phase.DUE
            else:
                track.phase = Phase.READY
            state.touch(step)
