"""What an attempt asks of the world, and how it is called off: of a worker, of a child run, or of the locks.

It reads a step and returns effects; it changes nothing.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from saga.core.address import child_run_id
from saga.core.effects import Effect, Fence, Kill, RequestLock, RunTask, StartChild, TellChild, WithdrawLock
from saga.core.events import Direction, EventKind
from saga.core.outcome import companion_input
from saga.core.pinned import ChildLink, LockLink
from saga.core.tracks import StepState, Track

#: Seconds that a hard limit lies above an attempt's timeout, for the soft limit to be handled in.
GRACE_SECONDS = 5.0


def request(step: StepState, track: Track) -> Effect:
    """Return what a track's attempt asks for."""
    match step.link:
        case None:
            return _task(step, track)
        case LockLink(name, wait):
            return RequestLock(track.token, track.attempt, name, wait)
        case ChildLink() as child:
            return _child(step, child, track)


def withdrawal(step: StepState, track: Track) -> Effect | None:
    """Return what takes back an attempt that is not wanted any more; None where that was asked for, or cannot be."""
    match step.link:
        case None:
            return Fence(track.token)
        case LockLink():
            return WithdrawLock(track.token)
        case ChildLink() as child:
            if step.abandoned or step.told_to_end:
                return None
            return _word(step, child, track, EventKind.CANCEL_REQUESTED)


def termination(step: StepState, track: Track) -> Effect | None:
    """Return what ends an attempt where it stands; None for a lock, let go of with its run, and an abandoned child."""
    match step.link:
        case None:
            return Kill(track.token)
        case LockLink():
            return None
        case ChildLink() as child:
            return None if step.abandoned else _word(step, child, track, EventKind.TERMINATE_REQUESTED)


def over_at(track: Track, seen_at: datetime) -> datetime | None:
    """Return when the worker of an attempt that was in flight must have ended, if there is a limit."""
    timeout = track.policy.timeout_seconds
    return None if timeout is None else seen_at + timedelta(seconds=timeout + 2 * GRACE_SECONDS)


def _task(step: StepState, track: Track) -> RunTask:
    policy, token, given = track.policy, step.action.token, step.input
    heartbeat = policy.heartbeat_seconds
    if track.direction is Direction.COMPENSATION:
        given = companion_input(token, given, step.result)
    elif track.direction is Direction.PROBE:
        given = companion_input(token, given, None)
        heartbeat = None
    limit = None if policy.timeout_seconds is None else policy.timeout_seconds + GRACE_SECONDS
    return RunTask(track.token, track.attempt, track.task, given, limit, heartbeat, track.progress)


def _child(step: StepState, child: ChildLink, track: Track) -> StartChild:
    """Start the child, or the run that undoes it; each attempt has a run of its own."""
    run, key = _run_of(step, child, track, track.attempt)
    timeout = child.timeout_seconds
    undoes: UUID | None = None
    after: tuple[tuple[UUID, str], ...] = ()
    if track.direction is Direction.COMPENSATION:
        timeout = None
        undone = _run_of(step, child, step.action, step.action.attempt)
        undoes = undone[0]
        after = (undone, *(_run_of(step, child, track, attempt) for attempt in range(1, track.attempt)))
    return StartChild(
        track.token, track.attempt, run, child.saga, key, child.version, timeout, step.input, undoes, after
    )


def _word(step: StepState, child: ChildLink, track: Track, kind: EventKind) -> TellChild:
    run, key = _run_of(step, child, track, track.attempt)
    return TellChild(child.saga, key, run, kind.value)


def _run_of(step: StepState, child: ChildLink, track: Track, attempt: int) -> tuple[UUID, str]:
    """Return the id and the key of the run that an attempt starts."""
    undo = f"~undo{step.undos or ''}" if track.direction is Direction.COMPENSATION else ""
    again = f"~{attempt}" if attempt > 1 else ""
    return child_run_id(step.scheduled_at, track.token, attempt), child.key + undo + again
