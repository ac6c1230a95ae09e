"""A stage: a run and its children, their logs, tasks, timers and messages in memory, a coordinator and a worker.

It does what Postgres and a broker do for a run (docs/protocol.md), and kills or freezes at the boundary that it is
told. What follows for the run is decided by the engine's core, never here.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from saga.core.definition import SagaDefinition
from saga.core.effects import (
    AnswerParent,
    CancelTimer,
    Effect,
    Fence,
    Kill,
    ReleaseLocks,
    RequestLock,
    RunTask,
    SetTimer,
    StartChild,
    TellChild,
    WithdrawLock,
)
from saga.core.errors import ReplayMismatch, SagaError
from saga.core.events import Direction, Event, EventKind, Parent, split_task_name, start_payload
from saga.core.execution import Blocked, Execution, Input
from saga.core.lifecycle import StallReason
from saga.core.outcome import wrap
from saga.engine.codec import JsonCodec
from saga.engine.crashpoints import Point
from saga.engine.registry import saga_named
from saga.engine.renewing import lease_seconds
from saga.testing.cast import Cast
from saga.testing.locks import Locks
from saga.testing.memory import bring_back, cut_off, keep, let_go
from saga.testing.mishaps import Frozen, Mishaps

#: Arrivals after which a play is taken for an endless loop.
ARRIVALS_MAX = 10_000

Message = tuple[UUID, int]  #: token and attempt


@dataclass(slots=True)
class StagedRun:
    """A run on the stage: what is stored of it, and what the coordinator has in memory."""

    id: UUID
    saga: str
    key: str
    new: Callable[[], Execution]  #: one that knows nothing of the log
    execution: Execution
    log: list[Event] = field(default_factory=list)

    @property
    def address(self) -> str:
        """`checkout/order-7`."""
        return f"{self.saga}/{self.key}"


@dataclass(slots=True)
class Row:
    """A row of the task table: an attempt that nobody has claimed, or whose claim's lease runs."""

    run: StagedRun
    task: RunTask
    lease_until: datetime | None = None
    told: list[str] = field(default_factory=list)  #: the progress of the attempt, as JSON text

    @property
    def progress(self) -> str | None:
        """What the attempt told last."""
        return self.told[-1] if self.told else None


@dataclass(frozen=True, slots=True)
class FrozenWorker:
    """A worker that stands still between its claim and the effect. It has lost its claim, and acts all the same."""

    until: Frozen
    run: StagedRun
    task: RunTask


class Stage:
    """The world of one run and its children, from the start until nothing moves any more.

    `awaited` is told each signal that the run begins to wait for.
    """

    def __init__(
        self,
        saga: SagaDefinition,
        key: str,
        given: str,
        *,
        run: UUID,
        codec: JsonCodec,
        cast: Cast,
        now: datetime,
        mishaps: Mishaps,
        awaited: Callable[[str], None],
    ) -> None:
        self.now = now
        self._codec = codec
        self._cast = cast
        self._mishaps = mishaps
        self._awaited = awaited
        self._runs: dict[UUID, StagedRun] = {}
        self._inbox: deque[tuple[StagedRun, Input]] = deque()
        self._rows: dict[UUID, Row] = {}
        self._messages: deque[Message] = deque()
        self._timers: dict[tuple[UUID, str], datetime] = {}
        self._to_come: list[tuple[datetime, Input]] = []
        self._locks = Locks()
        self._frozen: FrozenWorker | None = None
        self._turns = 0
        self.main = self._add(run, saga, saga.name, key)
        self.arrive(Input(EventKind.RUN_STARTED, now, payload=start_payload(saga.version, saga.timeout_seconds, given)))

    @property
    def inbox_empty(self) -> bool:
        """Whether nothing has arrived that no turn has taken yet."""
        return not self._inbox

    def arrive(self, arrival: Input) -> None:
        """Put something for the main run into the inbox; what lies ahead arrives when its time has come."""
        if arrival.at > self.now:
            self._to_come.append((arrival.at, arrival))
        else:
            self._inbox.append((self.main, arrival))

    def move(self) -> bool:
        """Let the coordinator take one arrival, else the worker one message, else time pass. False: all is at rest.

        Before it is, a worker that is frozen still goes on.

        Raises:
            ReplayMismatch: a saga function does something else when it is replayed.
            SagaError: the run makes no end.
        """
        if self._inbox:
            self._turn()
        elif self._messages:
            self._deliver()
        elif not self._pass_time():
            if self._frozen is None:
                return False
            self._go_on(self._frozen)
        return True

    def leave(self) -> None:
        """Let every saga function go."""
        for run in self._runs.values():
            let_go(run.execution)

    def _add(
        self, run: UUID, saga: SagaDefinition | None, name: str, key: str, undoes: StagedRun | None = None
    ) -> StagedRun:
        def new() -> Execution:
            taken_back = None if undoes is None else (undoes.id, tuple(undoes.log))
            return Execution(run, key, saga, self._codec, undoes=taken_back)

        self._runs[run] = staged = StagedRun(run, name, key, new, new())
        return staged

    # -- the coordinator -------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._turns += 1
        if self._turns > ARRIVALS_MAX:
            raise SagaError(
                f"saga {self.main.saga} came to no end after {ARRIVALS_MAX} arrivals: it retries or loops for ever"
            )
        run, arrival = self._inbox[0]
        if run.execution.stopped():
            self._inbox.popleft()
            return
        what = self._described(run, arrival)
        try:
            with cut_off():
                run.execution.feed(arrival, self.now)
        except Blocked as blocked:  # of the function's memory nothing can be trusted: it is stalled by its log alone
            keep(run.execution)
            run.execution = run.new()
            run.execution.fold_only = True
            run.execution.replay(run.log)
            run.execution.suspend(arrival, self.now, StallReason.SAGA_BUG, str(blocked))
        decision = run.execution.take()
        if self._dies(Point.TURN_DECIDED, what):
            return  # nothing was stored: the arrival is still in the inbox
        self._inbox.popleft()
        run.log.extend(decision.events)
        messages = self._store(run, decision.effects)
        if run is self.main:
            for event in decision.events:
                if event.kind is EventKind.SIGNAL_AWAITED and event.key is not None:
                    self._awaited(event.key.partition(":")[2].rpartition("#")[0])
        if not self._dies(Point.TURN_COMMITTED, what):
            self._messages.extend(messages)
            if not self._dies(Point.TURN_PUBLISHED, what):
                return
        # An heir publishes again what may not have been published.
        self._messages.extend((token, row.task.attempt) for token, row in self._rows.items() if row.lease_until is None)

    def _store(self, run: StagedRun, effects: list[Effect]) -> list[Message]:
        """Do what a turn asks of the database, and return what is to be published."""
        added: dict[UUID, RunTask] = {}
        fences: list[UUID] = []
        for effect in effects:
            match effect:
                case RunTask(token):
                    added[token] = effect
                case SetTimer(name, due_at):
                    self._timers[run.id, name] = due_at
                case CancelTimer(name):
                    self._timers.pop((run.id, name), None)
                case Fence(token):
                    fences.append(token)
                case Kill(token):
                    if added.pop(token, None) is None:
                        self._rows.pop(token, None)
                case _:
                    self._store_among_runs(run, effect)
        for token in fences:
            row = self._rows.get(token)
            if row is not None and row.lease_until is None:
                del self._rows[token]
                self._inbox.append((run, Input(EventKind.STEP_NEVER_STARTED, self.now, token, row.task.attempt)))
        self._rows.update({token: Row(run, task) for token, task in added.items()})
        for answer in self._locks.answers():
            told = Input(answer.kind, self.now, answer.token, answer.attempt, payload=answer.payload)
            self._inbox.append((self._runs[answer.run], told))
        return [(token, task.attempt) for token, task in added.items()]

    def _store_among_runs(self, run: StagedRun, effect: Effect) -> None:
        match effect:
            case StartChild():
                self._start_child(run, effect)
            case TellChild(run=child, kind=kind) if child in self._runs:
                self._inbox.append((self._runs[child], Input(EventKind(kind), self.now)))
            case AnswerParent(parent, kind, payload):
                told = Input(EventKind(kind), self.now, parent.token, parent.attempt, payload=payload)
                self._inbox.append((self._runs[parent.run], told))
            case RequestLock():
                self._locks.request(run.id, effect)
            case WithdrawLock(token):
                self._locks.withdraw(token)
            case ReleaseLocks():
                self._locks.release(run.id)

    def _start_child(self, run: StagedRun, effect: StartChild) -> None:
        parent = Parent(run.id, run.saga, run.key, effect.token, effect.attempt)
        if any((other.saga, other.key) == (effect.saga, effect.key) for other in self._runs.values()):
            said = wrap(
                json.dumps({"type": "", "message": f"{effect.saga}/{effect.key} is another run"}),
                worker="play",
                ran_seconds=0.0,
            )
            refused = Input(EventKind.STEP_FAILED, self.now, effect.token, effect.attempt, payload=said)
            self._inbox.append((run, refused))
            return
        payload = start_payload(
            effect.version, effect.timeout_seconds, effect.input, parent=parent, undoes=effect.undoes
        )
        undoes = None if effect.undoes is None else self._runs[effect.undoes]
        child = self._add(effect.run, saga_named(effect.saga, effect.version), effect.saga, effect.key, undoes)
        self._inbox.append((child, Input(EventKind.RUN_STARTED, self.now, payload=payload)))

    def _dies(self, point: Point, what: str) -> bool:
        """Come by a boundary; say whether a process dies there. Whoever dies, the coordinator forgets all runs."""
        if not self._goes_wrong(point, what):
            return False
        for run in self._runs.values():
            self._bring_back(run)
        return True

    def _goes_wrong(self, point: Point | Frozen, what: str) -> bool:
        """Come by a boundary, where the run may be cancelled; say whether it is the one where something goes wrong."""
        name = self._mishaps.pass_by(point, what)
        if name == self._mishaps.cancel_at:
            self.arrive(Input(EventKind.CANCEL_REQUESTED, self.now))
        return name == self._mishaps.crash_at

    def _bring_back(self, run: StagedRun) -> None:
        """Drop a run from memory and bring it back from its log, as an heir does."""
        let_go(run.execution)
        run.execution = run.new()
        broken = bring_back(run.execution, run.log) if run.log else ""  # else its start is still in the inbox
        if broken:
            raise ReplayMismatch(
                f"saga {run.saga} does something else when it is replayed from its log: {broken}. "
                "Its function must be deterministic: no I/O, no clock, no randomness but through ctx"
            )

    # -- the worker ------------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        token, attempt = message = self._messages.popleft()
        row = self._rows.get(token)
        if row is None or row.task.attempt != attempt or row.lease_until is not None:
            return  # finished, fenced, or another's
        run, task = row.run, row.task
        what = self._named(run, token, attempt)
        if self._dies(Point.WORKER_RECEIVED, what):
            self._messages.append(message)
            return
        row.lease_until = self.now + timedelta(seconds=lease_seconds(task.limit_seconds, task.heartbeat_seconds))
        if self._dies(Point.WORKER_CLAIMED, what) or self._freezes(row, what):
            return
        ended = self._cast.run(task, run.address, row.told)
        # A transactional step that has run and is not recorded is rolled back: that is the boundary before.
        if not self._cast.transactional(task) and self._dies(Point.WORKER_RAN, what):
            return
        del self._rows[token]
        further = None if ended.kind is EventKind.STEP_SUCCEEDED else row.progress
        payload = wrap(ended.value, worker="play", ran_seconds=0.0, progress=further)
        self._inbox.append((run, Input(ended.kind, self.now, token, attempt, uuid4(), payload=payload)))
        if self._dies(Point.WORKER_RECORDED, what):
            self._messages.append(message)
        frozen = self._frozen
        if frozen is not None and frozen.until is Frozen.OVERTAKEN and self._cast.overtakes(task, frozen.task):
            self._go_on(frozen)

    def _freezes(self, row: Row, what: str) -> bool:
        """Say whether the worker freezes before the effect. A late transactional one is rolled back: it has none."""
        if split_task_name(row.task.name)[1] is Direction.PROBE or self._cast.transactional(row.task):
            return False
        for until in Frozen:
            if self._goes_wrong(until, what):
                self._frozen = FrozenWorker(until, row.run, row.task)
                return True
        return False

    def _go_on(self, frozen: FrozenWorker) -> None:
        """Let a frozen worker act, and tell late what came of it."""
        self._frozen = None
        task = frozen.task
        ended = self._cast.run(task, frozen.run.address, [], fenced=True)
        outcome = wrap(ended.value, worker="play", ran_seconds=0.0)
        told = f'{{"kind": {json.dumps(ended.kind)}, "payload": {outcome}}}'
        late = Input(EventKind.OUTCOME_LATE, self.now, task.token, task.attempt, uuid4(), payload=told)
        self._inbox.append((frozen.run, late))

    # -- time ------------------------------------------------------------------------------------------------------

    def _pass_time(self) -> bool:
        """Jump to what is due first: something that was to come, a timer, or the end of a dead worker's lease."""
        come = min(self._to_come, key=lambda one: one[0], default=None)
        timer = min(self._timers.items(), key=lambda one: one[1], default=None)
        leases = [(row.lease_until, token) for token, row in self._rows.items() if row.lease_until is not None]
        lease = min(leases, key=lambda one: one[0], default=None)
        moments = [one for one in (come and come[0], timer and timer[1], lease and lease[0]) if one is not None]
        if not moments:
            return False
        at = min(moments)
        self.now = max(self.now, at)
        if come is not None and come[0] == at:
            self._to_come.remove(come)
            self._inbox.append((self.main, come[1]))
        elif timer is not None and timer[1] == at:
            run, name = timer[0]
            del self._timers[run, name]
            self._inbox.append((self._runs[run], Input(EventKind.TIMER_FIRED, at, key=name)))
        elif lease is not None:
            row = self._rows.pop(lease[1])
            told = None if row.progress is None else json.dumps({"progress": row.progress})
            lost = Input(EventKind.STEP_LOST, at, lease[1], row.task.attempt, payload=told)
            self._inbox.append((row.run, lost))
        return True

    # -- names -----------------------------------------------------------------------------------------------------

    def _described(self, run: StagedRun, arrival: Input) -> str:
        if arrival.token is not None:
            return f"{arrival.kind} {self._named(run, arrival.token, arrival.attempt or 1)}"
        name = arrival.key if arrival.kind is EventKind.TIMER_FIRED else ""
        if arrival.kind is EventKind.SIGNAL_RECEIVED:
            name = json.loads(arrival.payload or "{}")["signal"]
        return f"{arrival.kind} {name}".rstrip() + self._of(run)

    def _named(self, run: StagedRun, token: UUID, attempt: int) -> str:
        """Name an attempt: `shop.charge_card#1`, `shop.charge_card.compensate#1 attempt 2`."""
        step, track = run.execution.state.tokens[token]
        name = f"{track.task}#{step.occurrence.rpartition('#')[2]}"
        return (name if attempt == 1 else f"{name} attempt {attempt}") + self._of(run)

    def _of(self, run: StagedRun) -> str:
        return "" if run is self.main else f" of {run.address}"
