"""A decided batch: what runs have decided, as the rows that one commit writes. It decides nothing and reads nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from saga.core.address import shard_of
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
from saga.core.events import EventKind, Parent, chain_digest, start_payload
from saga.core.lifecycle import ENDED, Status
from saga.engine.cache import CachedRun
from saga.engine.records import (
    SHARDS,
    Arrival,
    Batch,
    Incident,
    LockRequest,
    NewEvent,
    NewRun,
    NewTask,
    NewTimer,
    RunChange,
    Sent,
    TaskMessage,
)
from saga.engine.renewing import lease_seconds

#: What marks a cancel or terminate that a parent sends to its child: one that comes too late is no incident.
BY_PARENT = "parent"


@dataclass(slots=True)
class Prepared:
    """A decided batch: what to commit, and which runs it moves from which head to which."""

    batch: Batch = field(default_factory=Batch)
    heads: dict[UUID, tuple[int, int]] = field(default_factory=dict)  #: (before, after); before is 0 for a new run
    labels: dict[UUID, str] = field(default_factory=dict)
    taken: list[Arrival] = field(default_factory=list)

    def messages(self, task_ids: dict[UUID, int]) -> list[TaskMessage]:
        """Return what to publish once the batch is committed; tasks that are done meanwhile are left out."""
        return [
            TaskMessage(
                task_ids[task.token],
                task.token,
                task.attempt,
                task.run,
                self.labels[task.run],
                task.name,
                task.queue,
                task.limit_seconds,
            )
            for task in self.batch.tasks
            if task.token in task_ids
        ]

    def take(self, arrival: Arrival) -> None:
        """Take an arrival out of the inbox."""
        self.taken.append(arrival)
        self.batch.taken.append(arrival.id)

    def drop(self, arrival: Arrival, run: UUID | None) -> None:
        """Take an arrival that no run can take any more, and keep it for the operator."""
        self.take(arrival)
        payload = arrival.payload
        if arrival.kind == EventKind.SIGNAL_RECEIVED and payload is not None:
            payload = f'{{"id":{json.dumps(arrival.dedupe)},{payload[1:]}'
        self.batch.incidents.append(Incident(run, arrival.token, arrival.attempt, arrival.kind, payload))

    def put(
        self,
        cached: CachedRun,
        now: datetime,
        *,
        build: str,
        queue_of: Callable[[str], str],
        fired: set[str],
        start: str | None,
    ) -> None:
        """Put what a run has decided since its last turn into the batch.

        `start` is the input (JSON text) of a run that begins, None for one that has a row; `fired` are the timers that
        the run took.
        """
        batch, execution = self.batch, cached.execution
        run = execution.run
        decision = execution.take()
        if not decision.events:
            return
        digest = cached.digest
        for event in decision.events:
            digest = chain_digest(digest, event)
            batch.events.append(NewEvent(run, event, digest))
            if event.kind is EventKind.RUN_STALLED:
                cached.stall = event.payload
        kinds = {event.kind for event in decision.events}
        head = decision.events[-1].seq
        self._put_effects(cached, decision.effects, fired, queue_of)
        state = execution.state
        status, reason = execution.status, execution.stall_reason
        ended_at = now if status in ENDED else None
        failure = cached.stall if status is Status.STALLED else state.failure
        cause = state.cause.value if state.cause is not None else None
        shown = state.shown if EventKind.STATE_SET in kinds else None
        attributes = json.dumps(state.attributes) if EventKind.ATTRIBUTES_SET in kinds else None
        if start is not None:
            batch.runs.append(
                NewRun(
                    id=run,
                    saga=cached.saga,
                    key=cached.key,
                    shard=cached.shard,
                    version=cached.version,
                    build=build,
                    status=status.value,
                    reason=reason.value if reason else None,
                    cause=cause,
                    head=head,
                    digest=digest,
                    input_digest=cached.input_digest,
                    input=start,
                    result=state.result,
                    failure=failure,
                    started_at=now,
                    ended_at=ended_at,
                    state=shown,
                    attributes=attributes,
                )
            )
        else:
            batch.changes.append(
                RunChange(
                    id=run,
                    old_head=cached.head,
                    head=head,
                    build=build,
                    status=status.value,
                    reason=reason.value if reason else None,
                    cause=cause,
                    digest=digest,
                    result=state.result,
                    failure=failure,
                    ended_at=ended_at,
                    state=shown,
                    attributes=attributes,
                )
            )
        self.heads[run] = (cached.head, head)
        self.labels[run] = f"{cached.saga}/{cached.key}"
        cached.head, cached.digest = head, digest

    def _put_effects(
        self, cached: CachedRun, effects: list[Effect], fired: set[str], queue_of: Callable[[str], str]
    ) -> None:
        batch, run = self.batch, cached.execution.run
        timers: dict[str, NewTimer] = {}
        cancelled: set[str] = set()
        tasks: dict[UUID, NewTask] = {}
        for effect in effects:
            match effect:
                case RunTask(token, attempt, name, given, limit, heartbeat, progress):
                    queue = queue_of(name)
                    lease = lease_seconds(limit, heartbeat)
                    beats = heartbeat is not None
                    tasks[token] = NewTask(
                        token, attempt, run, cached.shard, name, queue, given, lease, limit, beats, progress
                    )
                case SetTimer(name, due_at):
                    timers[name] = NewTimer(run, name, cached.shard, due_at)
                case CancelTimer(name):
                    timers.pop(name, None)
                    cancelled.add(name)
                case Fence(token):
                    task = tasks.pop(token, None)
                    if task is None:
                        batch.fences.append(token)
                    else:  # it was asked for and taken back in one batch: nobody will ever see it
                        batch.sent.append(_never_started(cached, task))
                case Kill(token):
                    if tasks.pop(token, None) is None:
                        batch.kills.append(token)
                case Report(kind, payload):
                    batch.incidents.append(Incident(run, None, None, kind, payload))
                case _:
                    _put_among_runs(run, cached, effect, batch)
        batch.tasks.extend(tasks.values())
        batch.timers.extend(timers.values())
        batch.timers_gone.extend((run, name) for name in sorted(fired))
        batch.timers_cancelled.extend((run, name) for name in sorted(cancelled - fired))


def _put_among_runs(run: UUID, cached: CachedRun, effect: Effect, batch: Batch) -> None:
    """Put what one run asks of others into the batch: children, their parents, and semantic locks."""
    match effect:
        case StartChild():
            parent = Parent(run, cached.saga, cached.key, effect.token, effect.attempt)
            payload = start_payload(
                effect.version,
                effect.timeout_seconds,
                effect.input,
                parent=parent,
                undoes=effect.undoes,
                after=effect.after,
            )
            shard = shard_of(effect.saga, effect.key, SHARDS)
            batch.sent.append(
                Sent(shard, 1, effect.run, effect.saga, effect.key, EventKind.RUN_STARTED.value, payload=payload)
            )
        case TellChild(saga, key, child, kind):
            batch.sent.append(Sent(shard_of(saga, key, SHARDS), 0, child, saga, key, kind, dedupe=BY_PARENT))
        case AnswerParent(parent, kind, payload):
            batch.sent.append(answer_of(parent, kind, payload))
        case RequestLock(token, attempt, name, wait):
            holder = f"{cached.saga}/{cached.key}"
            batch.lock_requests.append(LockRequest(name, run, cached.shard, token, attempt, wait, holder))
        case WithdrawLock(token):
            asked = next((request for request in batch.lock_requests if request.token == token), None)
            if asked is None:
                batch.locks_withdrawn.append(token)
            else:
                batch.lock_requests.remove(asked)
                batch.sent.append(_never_started(cached, asked))
        case ReleaseLocks():
            batch.locks_released.append(run)


def _never_started(cached: CachedRun, asked: NewTask | LockRequest) -> Sent:
    return Sent(
        cached.shard,
        0,
        asked.run,
        cached.saga,
        cached.key,
        EventKind.STEP_NEVER_STARTED.value,
        asked.token,
        asked.attempt,
    )


def answer_of(parent: Parent, kind: str, payload: str) -> Sent:
    """Return the arrival by which a parent hears how its child ended; `payload` is JSON text."""
    shard = shard_of(parent.saga, parent.key, SHARDS)
    return Sent(shard, 0, parent.run, parent.saga, parent.key, kind, parent.token, parent.attempt, payload=payload)
