"""The state of a run, folded from its log: every event, live and in replay alike. It decides nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from saga.core.address import child_run_id
from saga.core.effects import (
    AnswerParent,
    CancelTimer,
    Effect,
    Fence,
    Kill,
    ReleaseLocks,
    Report,
    RequestLock,
    RunTask,
    SetTimer,
    StartChild,
    TellChild,
    WithdrawLock,
)
from saga.core.events import Direction, Event, EventKind, Parent, parent_of, token_of
from saga.core.lifecycle import Cause, StallReason, Status
from saga.core.outcome import companion_input, found, progress_of, unwrap
from saga.core.tracks import ChildLink, LockLink, Phase, StepState, Track, read_pinned
from saga.core.waits import Mailbox, Wait

#: Seconds that a hard limit lies above an attempt's timeout, for the soft limit to be handled in.
GRACE_SECONDS = 5.0

_SCHEDULED = {
    EventKind.ATTEMPT_SCHEDULED,
    EventKind.PROBE_SCHEDULED,
    EventKind.COMPENSATION_SCHEDULED,
}
_OUTCOMES = {
    EventKind.STEP_SUCCEEDED,
    EventKind.STEP_FAILED,
    EventKind.STEP_ROLLED_BACK,
    EventKind.STEP_POSTPONED,
    EventKind.STEP_UNKNOWN,
    EventKind.STEP_LOST,
    EventKind.STEP_NEVER_STARTED,
    EventKind.STEP_NOT_RUN,
    EventKind.STEP_REFUSED,
}
#: Kinds of a late outcome under which the effect is there, or may be.
_MAY_HAVE_LANDED = (EventKind.STEP_SUCCEEDED, EventKind.STEP_UNKNOWN, EventKind.STEP_REFUSED)


class State:
    """A run as its log tells it. `effects` collects what the events ask of the world; a replay throws them away."""

    def __init__(self, run: UUID) -> None:
        self.run = run
        self.seq = 0
        self.at: datetime | None = None
        self.version = 0
        self.input: str = "null"
        self.timeout_seconds: float | None = None
        self.steps: dict[str, StepState] = {}
        self.tokens: dict[UUID, tuple[StepState, Track]] = {}
        self.dirty: dict[str, StepState] = {}  #: steps touched since policy last looked; ordered
        self.unfinished: dict[str, StepState] = {}
        self.standing: dict[str, StepState] = {}  #: steps whose effects are there, or may be
        self.stuck: dict[UUID, StallReason] = {}
        self.waits: dict[str, Wait] = {}
        self.mailbox = Mailbox()
        self.settlements: list[str] = []  #: occurrences in the order in which the function may see how they ended
        self.savepoints: dict[str, int] = {}  #: each with its seq
        self.shown: str | None = None  #: JSON text of what `ctx.set_state` said last
        self.attributes: dict[str, Any] = {}
        self.parent: Parent | None = None
        self.undoes: UUID | None = None  #: the run whose effects this one takes back
        self.unheard: dict[str, datetime] = {}  #: timers for what was in flight when that run was ended
        self.locks = False
        self.timers: set[str] = set()
        self.claimants: set[UUID] = set()  #: deliveries whose own word is in the log
        self.effects: list[Effect] = []
        self.pivoted = False
        self.undoing = False
        self.cause: Cause | None = None
        self.suspended: StallReason | None = None
        self.ended: Status | None = None
        self.cancel_asked: Cause | None = None
        self.terminate_asked = False
        self.failure: str | None = None  #: JSON text
        self.result: str | None = None  #: JSON text

    @property
    def status(self) -> Status:
        """The status that the run's row shows."""
        if self.ended is not None:
            return self.ended
        if self.suspended is not None or self.stuck:
            return Status.STALLED
        return Status.COMPENSATING if self.undoing else Status.RUNNING

    @property
    def stall_reason(self) -> StallReason | None:
        """Why the run is stalled, if it is."""
        if self.ended is not None:
            return None
        return self.suspended or next(iter(self.stuck.values()), None)

    # -- folding ---------------------------------------------------------------------------------------------------

    def apply(self, event: Event) -> None:
        """Take one event into account."""
        self.seq = event.seq
        self.at = event.at
        kind = event.kind
        if kind in _OUTCOMES:
            self._outcome(event)
        elif kind is EventKind.ACTION_SCHEDULED:
            self._action_scheduled(event)
        elif kind in _SCHEDULED:
            self._scheduled(event)
        else:
            getattr(self, _HANDLERS[kind])(event)

    def _touch(self, step: StepState) -> None:
        self.dirty[step.occurrence] = step
        if step.settled_seq is not None and not step.told:
            step.told = True
            self.settlements.append(step.occurrence)
        if step.may_stand:
            self.standing[step.occurrence] = step
        else:
            self.standing.pop(step.occurrence, None)
        if step.finished:
            self.unfinished.pop(step.occurrence, None)
        else:
            self.unfinished[step.occurrence] = step

    def _set_timer(self, name: str, due_at: datetime) -> None:
        self.timers.add(name)
        self.effects.append(SetTimer(name, due_at))

    def drop_timer(self, name: str) -> None:
        """Cancel a timer if it is set."""
        if name in self.timers:
            self.timers.discard(name)
            self.effects.append(CancelTimer(name))

    def fence(self, step: StepState) -> None:
        """Ask that what no worker has claimed of an action or probe be taken back, and stop waiting to retry it."""
        for track in (step.action, step.probe):
            if track is not None and track.phase is Phase.IN_FLIGHT:
                if isinstance(step.link, ChildLink):
                    self._cancel_child(step, step.link)
                elif isinstance(step.link, LockLink):
                    self.effects.append(WithdrawLock(track.token))
                else:
                    self.effects.append(Fence(track.token))
            elif track is not None and track.phase in (Phase.WAITING, Phase.READY):
                self.drop_timer(timer_name(track, step))
                track.phase = Phase.DUE

    def _run_started(self, event: Event) -> None:
        value = json.loads(event.payload or "{}")
        self.version = value["version"]
        self.timeout_seconds = value.get("timeout")
        self.parent = parent_of(value)
        if value.get("undoes"):
            self.undoes = UUID(value["undoes"])
            self.cancel_asked = Cause.PARENT_UNDONE
            for name, due_at in self.unheard.items():
                self._set_timer(name, due_at)
        self.input = json_after(event.payload or "", "input")
        if self.timeout_seconds is not None:
            self._set_timer("timeout", event.at + timedelta(seconds=self.timeout_seconds))

    def _action_scheduled(self, event: Event) -> None:
        assert event.key is not None and event.payload is not None and event.token is not None
        pinned, _, given = event.payload.partition(',"input":')
        told = read_pinned(pinned[len('{"step":') :])
        policy, task = told.policy, told.task
        tokens = {d: token_of(self.run, event.key, d) for d in (Direction.PROBE, Direction.COMPENSATION)}
        action = Track(event.token, Direction.ACTION, policy, task)
        probe = Track(tokens[Direction.PROBE], Direction.PROBE, policy, f"{task}.probe") if told.probe else None
        undo = (
            Track(tokens[Direction.COMPENSATION], Direction.COMPENSATION, told.undo, f"{task}.compensate")
            if told.undo
            else None
        )
        step = StepState(event.key, given[:-1], event.seq, event.at, action, probe, undo, told.link)
        step.transactional = told.transactional
        self.locks = self.locks or isinstance(told.link, LockLink)
        self.steps[event.key] = step
        for track in step.tracks:
            self.tokens[track.token] = (step, track)
        self._dispatch(step, action, event)
        if policy.deadline_seconds is not None:
            self._set_timer(f"deadline:{event.key}", event.at + timedelta(seconds=policy.deadline_seconds))
        self._touch(step)

    def _scheduled(self, event: Event) -> None:
        assert event.token is not None
        step, track = self.tokens[event.token]
        self._dispatch(step, track, event)
        self._touch(step)

    def _moved(self, step: StepState, track: Track) -> None:
        """Note that policy chose this track: the other of action and probe has nothing left to decide."""
        if track.direction is Direction.COMPENSATION:
            return
        for other in (step.action, step.probe):
            if other is not None and other is not track and other.phase in (Phase.DUE, Phase.READY):
                other.phase = Phase.IDLE

    def _dispatch(self, step: StepState, track: Track, event: Event) -> None:
        self._moved(step, track)
        track.attempt = event.attempt or 1
        track.phase = Phase.IN_FLIGHT
        if track.began_at is None:
            track.began_at = event.at
        given = step.input
        if isinstance(step.link, LockLink):
            self.effects.append(RequestLock(track.token, track.attempt, step.link.name, step.link.wait))
            return
        if isinstance(step.link, ChildLink):
            self._start_child(step, step.link, track)
            return
        if track.direction is Direction.COMPENSATION:
            given = companion_input(step.action.token, step.input, step.result)
            step.undo_again = False
        elif track.direction is Direction.PROBE:
            given = companion_input(step.action.token, step.input, None)
        timeout = track.policy.timeout_seconds
        limit = None if timeout is None else timeout + GRACE_SECONDS
        heartbeat = None if track.direction is Direction.PROBE else track.policy.heartbeat_seconds
        self.effects.append(RunTask(track.token, track.attempt, track.task, given, limit, heartbeat, track.progress))

    def _start_child(self, step: StepState, child: ChildLink, track: Track) -> None:
        """Start the child, or the run that undoes it; each attempt has a run of its own."""
        step.undo_again = False
        run, key = _child_of(step, child, track, track.attempt)
        undoes: UUID | None = None
        after: tuple[tuple[UUID, str], ...] = ()
        if track.direction is Direction.COMPENSATION:
            undone = _child_of(step, child, step.action, step.action.attempt)
            undoes = undone[0]
            after = (undone, *(_child_of(step, child, track, attempt) for attempt in range(1, track.attempt)))
        timeout = child.timeout_seconds if undoes is None else None
        self.effects.append(
            StartChild(
                track.token, track.attempt, run, child.saga, key, child.version, timeout, step.input, undoes, after
            )
        )

    def _cancel_child(self, step: StepState, child: ChildLink) -> None:
        if step.abandoned or step.told_to_end:
            return
        step.told_to_end = True
        self._tell_child(step, child, step.action, EventKind.CANCEL_REQUESTED)

    def _tell_child(self, step: StepState, child: ChildLink, track: Track, kind: EventKind) -> None:
        run, key = _child_of(step, child, track, track.attempt)
        self.effects.append(TellChild(child.saga, key, run, kind.value))

    def _outcome(self, event: Event) -> None:
        if event.claimant is not None and event.kind is not EventKind.STEP_LOST:
            self.claimants.add(event.claimant)  # who was lost has told nothing yet
        known = self.tokens.get(event.token) if event.token else None
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
            self._failed(step, track, event)
        elif kind is EventKind.STEP_LOST:
            track.lost += 1
        elif kind is EventKind.STEP_NOT_RUN:
            track.not_run += 1
            self._failed(step, track, event)
        elif kind is EventKind.STEP_POSTPONED:
            track.postponed_seconds = float(json.loads(unwrap(event.payload) or "1"))
        elif kind is EventKind.STEP_SUCCEEDED:
            self._succeeded(step, track, event)
        if track.direction is Direction.ACTION and (
            kind in (EventKind.STEP_UNKNOWN, EventKind.STEP_REFUSED)
            # Had a transactional one landed, its outcome would be here instead; it can only roll back any more.
            or (kind is EventKind.STEP_LOST and not step.transactional)
        ):
            step.unknown = True
        if step.succeeded and track.direction is not Direction.COMPENSATION:
            track.phase = Phase.DONE
        self._touch(step)

    def _failed(self, step: StepState, track: Track, event: Event) -> None:
        track.failure = unwrap(event.payload) or track.failure
        if track.direction is Direction.ACTION:
            step.failure = track.failure

    def _succeeded(self, step: StepState, track: Track, event: Event) -> None:
        value = unwrap(event.payload)
        match track.direction:
            case Direction.ACTION:
                self._landed(step, value or "null", event.seq)
            case Direction.PROBE:
                result = found(value)
                if result is not None:
                    self._landed(step, result, event.seq)
            case Direction.COMPENSATION:
                if step.undo_again:
                    track.phase = Phase.DONE
                    self._undo_once_more(step)
                else:
                    track.phase = Phase.DONE
                    self._undone(step, event.seq)

    def _landed(self, step: StepState, result: str, seq: int) -> None:
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
                self.drop_timer(timer_name(track, step))
                self._unstick(track)
                track.phase = Phase.DONE
        self.drop_timer(f"deadline:{step.occurrence}")

    def _undone(self, step: StepState, seq: int) -> None:
        step.undone = True
        if step.settled_seq is None:
            step.settled_seq = seq

    def _unstick(self, track: Track) -> None:
        self.stuck.pop(track.token, None)

    def _step_gave_up(self, event: Event) -> None:
        assert event.token is not None
        step, _ = self.tokens[event.token]
        step.gave_up = True
        step.ended_seq = step.ended_seq or event.seq
        for track in (step.action, step.probe):
            if track is not None:
                self._unstick(track)
                track.phase = Phase.DONE
        if step.failure is None and event.payload is not None:
            step.failure = json.dumps({"type": "", "message": json.loads(event.payload)["reason"]})
        if not step.may_stand:
            step.settled_seq = event.seq
        self.drop_timer(f"deadline:{step.occurrence}")
        self._touch(step)

    def _late(self, event: Event) -> None:
        if event.claimant is not None:
            self.claimants.add(event.claimant)
        known = self.tokens.get(event.token) if event.token else None
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
                self._landed(step, result, event.seq)
                self.fence(step)
        else:
            if not step.succeeded:
                step.result = result or step.result
                step.unknown = True
            # It may have acted after its undo: it is undone once more, for nobody else will tell.
            if step.undo is not None and step.undo.phase is Phase.IN_FLIGHT:
                step.undo_again = True
            elif step.undo is not None and step.undone:
                step.undone = False
                self._undo_once_more(step)
        self._touch(step)

    def _undo_once_more(self, step: StepState) -> None:
        """Make a compensation with a token of its own ready: who remembers the first would only repeat its answer."""
        assert step.undo is not None
        step.undos += 1
        token = token_of(self.run, step.occurrence, Direction.COMPENSATION, again=step.undos)
        step.undo = Track(token, Direction.COMPENSATION, step.undo.policy, step.undo.task, phase=Phase.READY)
        step.undo_again = False
        step.tracks = tuple(track for track in (step.action, step.probe, step.undo) if track is not None)
        self.tokens[token] = (step, step.undo)

    def _retry_set(self, event: Event) -> None:
        assert event.token is not None and event.payload is not None
        step, track = self.tokens[event.token]
        self._moved(step, track)
        track.phase = Phase.WAITING
        delay = float(json.loads(event.payload)["after_seconds"])
        self._set_timer(timer_name(track, step), event.at + timedelta(seconds=delay))
        self._touch(step)

    def _timer_fired(self, event: Event) -> None:
        assert event.key is not None
        if event.key not in self.timers:
            return  # it was cancelled while it fired
        self.timers.discard(event.key)
        what, _, occurrence = event.key.partition(":")
        if what == "timeout":
            self.cancel_asked = self.cancel_asked or Cause.TIMED_OUT
            return
        if what == "timer":
            self._settle_wait(self.waits[occurrence], event.seq)
            return
        step = self.steps[occurrence]
        if what == "unheard":
            step.unknown = step.unknown or not step.succeeded
            self._end_action(step)
        elif what == "deadline":
            if not step.succeeded and not step.gave_up:
                self.fence(step)
        else:
            track = next(track for track in step.tracks if track.direction == what)
            if track.phase is Phase.WAITING:
                track.phase = Phase.READY
        self._touch(step)

    def _pivot_passed(self, event: Event) -> None:
        self.pivoted = True
        self.drop_timer("timeout")

    def _step_discarded(self, event: Event) -> None:
        assert event.key is not None
        step = self.steps[event.key]
        step.discarded = True
        self._call_back(step)
        self._touch(step)

    # -- waits -----------------------------------------------------------------------------------------------------

    def _settle_wait(self, wait: Wait, seq: int) -> None:
        wait.settled_seq = seq
        self.settlements.append(wait.occurrence)

    def _signal_received(self, event: Event) -> None:
        name = json.loads(event.payload or "{}")["signal"]
        settled = self.mailbox.receive(event, name, json_after(event.payload or "", "value"))
        if settled is not None:
            self._settle_wait(settled, event.seq)

    def _signal_awaited(self, event: Event) -> None:
        assert event.key is not None
        wait = Wait(event.key, signal=json.loads(event.payload or "{}")["signal"])
        self.waits[event.key] = wait
        if self.mailbox.wait(wait, event.seq):
            self._settle_wait(wait, event.seq)

    def _timer_started(self, event: Event) -> None:
        assert event.key is not None
        self.waits[event.key] = Wait(event.key)
        self._set_timer(f"timer:{event.key}", datetime.fromisoformat(json.loads(event.payload or "{}")["due_at"]))

    def _wait_dropped(self, event: Event) -> None:
        assert event.key is not None
        wait = self.waits[event.key]
        wait.dropped = True
        if wait.signal is not None:
            heir = self.mailbox.drop(wait, event.seq)
            if heir is not None:
                self._settle_wait(heir, event.seq)
        else:
            self.drop_timer(f"timer:{event.key}")

    def _update_answered(self, event: Event) -> None:
        """Nothing: the sender reads the answer in the log."""

    def _state_set(self, event: Event) -> None:
        self.shown = event.payload

    def _attributes_set(self, event: Event) -> None:
        self.attributes = {**self.attributes, **json.loads(event.payload or "{}")}

    def _savepoint_set(self, event: Event) -> None:
        assert event.key is not None
        self.savepoints[event.key] = event.seq

    def _rollback_asked(self, event: Event) -> None:
        assert event.key is not None
        for step in self.since(event.key):
            step.discarded = step.in_turn = True
            self._call_back(step)
            self._touch(step)

    def since(self, savepoint: str) -> list[StepState]:
        """Return the steps that were started behind a save-point and are wanted still."""
        seq = self.savepoints[savepoint]
        return [step for step in self.steps.values() if step.scheduled_seq > seq and not step.discarded]

    # -- the end ---------------------------------------------------------------------------------------------------

    def _run_completed(self, event: Event) -> None:
        self.result = event.payload
        self._end(Status.COMPLETED)

    def _run_failed(self, event: Event) -> None:
        self.failure = event.payload

    def _run_compensating(self, event: Event) -> None:
        value = json.loads(event.payload or "{}")
        self.undoing = True
        self.suspended = None
        self.cause = Cause(value["cause"])
        self.cancel_asked = None
        self.mailbox.open.clear()
        for name in sorted(self.timers):
            if name == "timeout" or name.startswith("timer:"):
                self.drop_timer(name)
        for step in self.steps.values():
            self._call_back(step)
            self.dirty[step.occurrence] = step

    def _call_back(self, step: StepState) -> None:
        """Note that a step is not wanted any more: nothing of it is retried, and no operator has to decide about it."""
        for track in (step.action, step.probe):
            if track is not None and track.phase is Phase.STUCK:
                self._unstick(track)
                track.phase = Phase.DUE
        self.fence(step)

    def _run_compensated(self, event: Event) -> None:
        self._end(Status.COMPENSATED)

    def _run_terminated(self, event: Event) -> None:
        for step in self.steps.values():
            for track in step.tracks:
                if track.phase is not Phase.IN_FLIGHT or step.abandoned or isinstance(step.link, LockLink):
                    continue  # a lock is let go of with the run
                if isinstance(step.link, ChildLink):
                    self._tell_child(step, step.link, track, EventKind.TERMINATE_REQUESTED)
                else:
                    self.effects.append(Kill(track.token))
        self._end(Status.TERMINATED)

    def _end(self, status: Status) -> None:
        self.ended = status
        self.suspended = None
        for name in sorted(self.timers):
            self.drop_timer(name)
        self.effects.extend(Report(EventKind.SIGNAL_RECEIVED, left) for left in self.mailbox.leftovers())
        if self.locks:
            self.effects.append(ReleaseLocks())
        if self.parent is not None:
            self.effects.append(self._answer(self.parent, status))

    def _answer(self, parent: Parent, status: Status) -> AnswerParent:
        if status is Status.COMPLETED or (self.undoes is not None and status is Status.COMPENSATED):
            kind, value = EventKind.STEP_SUCCEEDED, self.result or "null"
        else:
            said = json.loads(self.failure)["message"] if self.failure else self.cause or status
            value = json.dumps({"type": "", "message": f"the child run ended {status}: {said}"})
            ended_for_good = status is Status.COMPENSATED or self.undoes is not None
            kind = EventKind.STEP_FAILED if ended_for_good else EventKind.STEP_UNKNOWN
        return AnswerParent(parent, kind, f'{{"pivoted":{json.dumps(self.pivoted)},"value":{value}}}')

    def take_back(self, log: Iterable[Event]) -> None:
        """Become what another run left when it ended, ready to be undone as a run of its own.

        Behind its log may stand those of earlier attempts at that: what they did is done.
        """
        begun = False
        for event in log:
            if begun and event.kind is EventKind.RUN_STARTED:
                self._inherit()
            begun = True
            self.apply(event)
        self._inherit()

    def _inherit(self) -> None:
        """Take over where a run stood at its end: what was in flight was ended with it, and nobody hears of it."""
        unheard, self.unheard = self.unheard, {}
        for step in self.steps.values():
            for track in step.tracks:
                if track.direction is Direction.COMPENSATION:
                    self._inherit_undo(step, track, unheard)
                elif track is step.probe and track.phase is not Phase.DONE:
                    track.phase = Phase.DONE
                elif track.phase is not Phase.DONE:
                    self._inherit_action(step, track, unheard)
            self._touch(step)
        self.seq, self.at = 0, None
        self.ended = self.result = self.failure = self.suspended = self.cause = self.parent = None
        self.terminate_asked = self.undoing = self.locks = False
        self.cancel_asked = None
        self.stuck.clear()
        self.timers.clear()
        self.mailbox = Mailbox()
        self.effects.clear()

    def _inherit_undo(self, step: StepState, track: Track, unheard: dict[str, datetime]) -> None:
        name, limit = timer_name(track, step), self._ended_by(track)
        if track.phase is Phase.IN_FLIGHT and limit is not None and step.link is None:
            track.phase = Phase.WAITING
            self.unheard[name] = limit
        elif track.phase is Phase.WAITING and name in unheard:
            self.unheard[name] = unheard[name]
        elif track.phase in (Phase.IN_FLIGHT, Phase.STUCK, Phase.WAITING, Phase.DUE):
            track.phase = Phase.READY

    def _inherit_action(self, step: StepState, track: Track, unheard: dict[str, datetime]) -> None:
        name, limit = f"unheard:{step.occurrence}", self._ended_by(track)
        step.ended_seq = step.ended_seq or self.seq
        if track.phase is not Phase.IN_FLIGHT:
            self._end_action(step)
        elif step.link is None and limit is not None:
            self.unheard[name] = unheard.get(name, limit)  # it may still land: it is not undone before that is over
        else:
            step.unknown = not isinstance(step.link, LockLink)
            self._end_action(step)

    def _ended_by(self, track: Track) -> datetime | None:
        """Return when the worker of an attempt that was in flight at the end must have ended, if there is a limit."""
        if track.policy.timeout_seconds is None or self.at is None:
            return None
        return self.at + timedelta(seconds=track.policy.timeout_seconds + 2 * GRACE_SECONDS)

    def _end_action(self, step: StepState) -> None:
        step.action.phase = Phase.DONE
        step.gave_up = step.gave_up or not step.succeeded
        if not step.may_stand:
            step.settled_seq = step.settled_seq or self.seq

    def _run_stalled(self, event: Event) -> None:
        reason = StallReason(json.loads(event.payload or "{}")["reason"])
        if event.token is None:
            self.suspended = reason
            return
        step, track = self.tokens[event.token]
        self._moved(step, track)
        track.phase = Phase.STUCK
        self.stuck[track.token] = reason
        self._touch(step)

    def _cancel_requested(self, event: Event) -> None:
        self.cancel_asked = Cause.CANCELLED

    def _cancel_refused(self, event: Event) -> None:
        self.cancel_asked = None

    def _terminate_requested(self, event: Event) -> None:
        self.terminate_asked = True

    def _retry_requested(self, event: Event) -> None:
        self.suspended = None
        for token in list(self.stuck):
            step, track = self.tokens[token]
            if event.key is None or event.key == step.occurrence:
                self._unstick(track)
                track.renew()
                if step.probe is not None and track is step.action:
                    step.probe.renew()
                if track.direction is Direction.ACTION and step.unknown:
                    track.ended = EventKind.STEP_LOST  # look for a trace before it is asked again
                    track.phase = Phase.DUE
                else:
                    track.phase = Phase.READY
                self._touch(step)

    def _resolved(self, event: Event) -> None:
        for token in list(self.stuck):
            step, track = self.tokens[token]
            if event.key != step.occurrence:
                continue
            self._unstick(track)
            track.phase = Phase.DONE
            if track.direction is Direction.COMPENSATION:
                self._undone(step, event.seq)
            else:
                self._landed(step, json_after(event.payload or "", "result") or "null", event.seq)
            self._touch(step)


_HANDLERS: dict[EventKind, str] = {
    EventKind.RUN_STARTED: "_run_started",
    EventKind.OUTCOME_LATE: "_late",
    EventKind.TIMER_FIRED: "_timer_fired",
    EventKind.CANCEL_REQUESTED: "_cancel_requested",
    EventKind.CANCEL_REFUSED: "_cancel_refused",
    EventKind.TERMINATE_REQUESTED: "_terminate_requested",
    EventKind.RETRY_REQUESTED: "_retry_requested",
    EventKind.RESOLVED: "_resolved",
    EventKind.SIGNAL_RECEIVED: "_signal_received",
    EventKind.SIGNAL_AWAITED: "_signal_awaited",
    EventKind.TIMER_STARTED: "_timer_started",
    EventKind.WAIT_DROPPED: "_wait_dropped",
    EventKind.UPDATE_ANSWERED: "_update_answered",
    EventKind.STATE_SET: "_state_set",
    EventKind.ATTRIBUTES_SET: "_attributes_set",
    EventKind.SAVEPOINT_SET: "_savepoint_set",
    EventKind.ROLLBACK_ASKED: "_rollback_asked",
    EventKind.PIVOT_PASSED: "_pivot_passed",
    EventKind.STEP_DISCARDED: "_step_discarded",
    EventKind.RUN_COMPLETED: "_run_completed",
    EventKind.RUN_FAILED: "_run_failed",
    EventKind.RETRY_SET: "_retry_set",
    EventKind.STEP_GAVE_UP: "_step_gave_up",
    EventKind.RUN_COMPENSATING: "_run_compensating",
    EventKind.RUN_COMPENSATED: "_run_compensated",
    EventKind.RUN_TERMINATED: "_run_terminated",
    EventKind.RUN_STALLED: "_run_stalled",
}


def _child_of(step: StepState, child: ChildLink, track: Track, attempt: int) -> tuple[UUID, str]:
    """Return the id and the key of the run that an attempt starts: each has one of its own."""
    undo = f"~undo{step.undos or ''}" if track.direction is Direction.COMPENSATION else ""
    again = f"~{attempt}" if attempt > 1 else ""
    return child_run_id(step.scheduled_at, track.token, attempt), child.key + undo + again


def timer_name(track: Track, step: StepState) -> str:
    """Return the name of the timer before a track's next attempt."""
    return f"{track.direction}:{step.occurrence}"


def json_after(text: str, field: str) -> str:
    """Return the JSON text of an object's last field, byte for byte as it was written; empty where it is missing."""
    start = text.find(f'"{field}":')
    return text[start + len(field) + 3 : -1] if start >= 0 else ""
