"""A turn over a batch of runs: what arrived becomes events, tasks and timers in one Batch. Any host can call it.

It feeds and folds; reading, committing and publishing are its host's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from saga.core.effects import (
    SetTimer,
)
from saga.core.events import (
    TERMINAL,
    Event,
    EventKind,
    Parent,
    chain_digest,
    parent_of,
    taken_back,
)
from saga.core.execution import Blocked, Execution, Input
from saga.core.lifecycle import SUSPENDING, StallReason, Status
from saga.core.outcome import json_after
from saga.engine.alarm import deadline
from saga.engine.cache import Cache, CachedRun
from saga.engine.preparing import BY_PARENT, Prepared, answer_of
from saga.engine.records import (
    Arrival,
    DueTimer,
    NewEvent,
    RunChange,
    RunRow,
    Taken,
)
from saga.engine.registry import Definitions
from saga.engine.store.logs import UnreadableLogs

#: Seconds for which an arrival may wait for a start of its run before it counts as meant for no run.
ORPHAN_SECONDS = 60.0

#: How a child or a lock answers; where a worker says it, it names its delivery.
_ANSWERS = frozenset({EventKind.STEP_SUCCEEDED, EventKind.STEP_FAILED, EventKind.STEP_UNKNOWN})

#: What an arrival must be to be fed to a run whose function cannot go on.
_UNBLOCKING = frozenset({EventKind.CANCEL_REQUESTED, EventKind.TERMINATE_REQUESTED})

Log = list[tuple[Event, bytes]]


@dataclass(slots=True)
class _Work:
    """What one run has to take in this batch."""

    run: UUID
    row: RunRow | None
    arrivals: list[Arrival] = field(default_factory=list)
    timers: list[DueTimer] = field(default_factory=list)
    undone: list[Event] = field(default_factory=list)  #: the log of the run that it undoes, if it begins to


class Turns:
    """Decides turns.

    `route` tells the queue of a task, `logs` reads the logs of runs that are not in memory, `start_waits` says whether
    an address has a start that no turn has taken, and `moved` is told at every run that the host is alive.
    """

    def __init__(
        self,
        definitions: Definitions,
        cache: Cache,
        *,
        build: str,
        route: Callable[[str], str],
        logs: Callable[[Iterable[UUID]], dict[UUID, Log]],
        start_waits: Callable[[str, str], bool],
        moved: Callable[[], None],
        seconds: float,
    ) -> None:
        self._definitions = definitions
        self._cache = cache
        self._build = build
        self._route = route
        self._logs = logs
        self._start_waits = start_waits
        self._moved = moved
        self._seconds = seconds
        self._queues: dict[str, str] = {}

    def decide(self, taken: Taken, *, only: UUID | None = None, runs_max: int | None = None) -> Prepared:
        """Decide what was taken: inbox before timers, starts first within a run, one arrival at a time.

        `only` limits it to one run, `runs_max` to so many; what is left out stays in the inbox.
        """
        prepared = Prepared()
        # What no run can take is dropped once, by a turn over everything.
        works = self._works(taken, prepared if only is None else Prepared())
        if only is not None:
            works = {run: work for run, work in works.items() if run == only}
        try:
            chosen = [work for work in works.values() if self._may_begin(work, prepared)][:runs_max]
            missing = [
                work.run
                for work in chosen
                if work.row is not None
                and work.row.ended_at is None
                and self._cache.get(work.run, work.row.head) is None
            ]
            logs = self._logs(missing) if missing else {}
            for work in chosen:
                self._moved()
                self._turn(work, taken.now, logs.get(work.run, []), prepared)
        except BaseException:
            # What was fed already is ahead of the database: a start would count as one that has been taken.
            self._cache.evict(works)
            raise
        return prepared

    def stall(self, taken: Taken, run: UUID, reason: StallReason, message: str) -> Prepared:
        """Decide that a run stalls without running its function: it killed its coordinator, or cannot be stored."""
        prepared = Prepared()
        work = self._works(taken, Prepared())[run]
        if not self._may_begin(work, prepared):
            return prepared
        log = self._logs([run]).get(run, []) if work.row is not None else []
        cached = self._load(work, taken.now, log, fold_only=True)
        if cached is not None:
            self._suspend(work, cached, taken.now, prepared, reason, message)
        return prepared

    def stall_unread(self, row: RunRow, now: datetime, reason: StallReason, message: str) -> Prepared:
        """Decide that a run stalls whose log cannot be read here: one event behind its head, and nothing is taken."""
        payload = json.dumps({"reason": reason, "message": message[:2_000]})
        event = Event(row.head + 1, EventKind.RUN_STALLED, now, payload=payload)
        digest = chain_digest(row.digest, event)
        prepared = Prepared()
        prepared.batch.events.append(NewEvent(row.id, event, digest))
        prepared.batch.changes.append(
            RunChange(
                id=row.id,
                old_head=row.head,
                head=event.seq,
                build=self._build,
                status=Status.STALLED.value,
                reason=reason.value,
                cause=row.cause,
                digest=digest,
                result=None,
                failure=payload,
                ended_at=None,
            )
        )
        prepared.heads[row.id] = (row.head, event.seq)
        prepared.labels[row.id] = f"{row.saga}/{row.key}"
        return prepared

    # -- gathering -------------------------------------------------------------------------------------------------

    def _works(self, taken: Taken, prepared: Prepared) -> dict[UUID, _Work]:
        addresses = {(row.saga, row.key): row.id for row in taken.runs.values()}
        works: dict[UUID, _Work] = {}

        def work_of(run: UUID) -> _Work:
            if run not in works:
                works[run] = _Work(run, taken.runs.get(run))
            return works[run]

        starts = [arrival for arrival in taken.arrivals if arrival.kind == EventKind.RUN_STARTED]
        for arrival in starts:
            assert arrival.saga is not None and arrival.key is not None and arrival.run is not None
            known = addresses.setdefault((arrival.saga, arrival.key), arrival.run)
            if known in taken.runs:
                self._refuse_start(arrival, known, taken.runs[known].input_digest, prepared)
            elif known in works:
                first = works[known].arrivals[0]
                self._refuse_start(arrival, known, _digest(_given(first)), prepared)
            else:
                work_of(known).arrivals.append(arrival)
        for arrival in taken.arrivals:
            if arrival.kind == EventKind.RUN_STARTED:
                continue
            run = arrival.run
            if run is None and arrival.saga is not None and arrival.key is not None:
                run = addresses.get((arrival.saga, arrival.key))
            if run is not None and (run in taken.runs or run in works):
                work_of(run).arrivals.append(arrival)
            elif _by_parent(arrival) and (arrival.saga, arrival.key) in addresses:
                prepared.take(arrival)  # the start of that child was refused: the key is another run's
            elif (taken.now - arrival.at).total_seconds() > ORPHAN_SECONDS and not (
                arrival.saga and arrival.key and self._start_waits(arrival.saga, arrival.key)
            ):
                prepared.drop(arrival, run)
        for timer in taken.timers:
            if timer.run in taken.runs:
                work_of(timer.run).timers.append(timer)
        return works

    def _refuse_start(self, arrival: Arrival, run: UUID, digest: bytes, prepared: Prepared) -> None:
        """Drop a second start; with another input it is an incident, for its sender may not have looked."""
        parent = parent_of(json.loads(arrival.payload or "{}")) if arrival.run != run else None
        if parent is not None:
            self._refuse_child(arrival, parent, f"{arrival.saga}/{arrival.key} is another run", prepared)
        elif _digest(_given(arrival)) != digest:
            prepared.drop(arrival, run)
        else:
            prepared.take(arrival)

    def _refuse_child(
        self, start: Arrival, parent: Parent, message: str, prepared: Prepared, *, pivoted: bool = False
    ) -> None:
        """Take the start of a child that will not be, and tell its parent why."""
        said = json.dumps({"type": "", "message": message})
        payload = f'{{"pivoted":{json.dumps(pivoted)},"value":{said}}}'
        prepared.batch.sent.append(answer_of(parent, EventKind.STEP_FAILED.value, payload))
        prepared.take(start)

    def _may_begin(self, work: _Work, prepared: Prepared) -> bool:
        """Say whether a run can be decided: an undo begins when the run it undoes has ended, and earlier ones of it.

        The log of a run that has ended grows no more, so that every replay of its undo finds the same. The undo of a
        run that passed its pivot is refused.
        """
        start = _start_of(work)
        if work.row is not None or start is None:
            return True
        told = json.loads(start.payload or "{}")
        undone = taken_back(told)
        for run, key in undone:
            log = self._log_of(run, work.run)
            if log and log[-1].kind not in TERMINAL:
                return False
            if not log and key and self._start_waits(start.saga or "", key):
                return False
            work.undone.extend(log)
        parent = parent_of(told)
        if parent is None or not any(event.kind is EventKind.PIVOT_PASSED for event in work.undone):
            return True
        message = f"{start.saga}/{undone[0][1]} passed its pivot: nothing of it goes back by itself"
        self._refuse_child(start, parent, message, prepared, pivoted=True)
        return False

    # -- one run ---------------------------------------------------------------------------------------------------

    def _turn(self, work: _Work, now: datetime, log: Log, prepared: Prepared) -> None:
        if work.row is not None and work.row.ended_at is not None:
            self._close(work, prepared)
            return
        forgiven = any(arrival.kind == EventKind.RETRY_REQUESTED for arrival in work.arrivals)
        if self._cache.clings(work.run, forgive=forgiven) and not _suspended(work.row):
            self._stall_by_memory(work, now, log, prepared, "its function survived its eviction from memory")
            return
        try:
            with deadline(self._seconds):
                fed, cached, fired = self._feed(work, now, log, prepared)
        except Blocked as blocked:
            # It broke out of the function into the engine.
            self._stall_by_memory(work, now, log, prepared, str(blocked))
            return
        if cached is None:
            return
        for arrival in fed:
            prepared.take(arrival)
        self._put(work, cached, now, prepared, fired)
        execution = cached.execution
        if execution.stopped() or execution.fold_only:
            self._cache.evict([work.run])
            self._cache.let_go(execution)
        else:
            self._cache.put(work.run, cached)

    def _stall_by_memory(self, work: _Work, now: datetime, log: Log, prepared: Prepared, message: str) -> None:
        """Stall a run of whose memory nothing can be trusted, by its log alone."""
        self._cache.evict([work.run])
        log = log or self._logs([work.run]).get(work.run, [])
        loaded = self._load(work, now, log, fold_only=True)
        if loaded is not None:
            self._suspend(work, loaded, now, prepared, StallReason.SAGA_BUG, message)

    def _close(self, work: _Work, prepared: Prepared) -> None:
        """Take what comes after a run's end: an incident each, unless it tells again what the log has."""
        again = any(arrival.kind in (EventKind.OUTCOME_LATE, EventKind.SIGNAL_RECEIVED) for arrival in work.arrivals)
        log = self._logs([work.run]).get(work.run, []) if again else []
        # A lost delivery is named in the log too, but nobody has heard its own word yet.
        told = {event.claimant for event, _ in log if event.kind is not EventKind.STEP_LOST}
        signals = {event.key for event, _ in log if event.kind is EventKind.SIGNAL_RECEIVED}
        for arrival in work.arrivals:
            told_already = (arrival.kind == EventKind.OUTCOME_LATE and arrival.claimant in told) or (
                arrival.kind == EventKind.SIGNAL_RECEIVED and arrival.dedupe in signals
            )
            if told_already or _by_parent(arrival) or _by_no_worker(arrival):
                prepared.take(arrival)
            else:
                prepared.drop(arrival, work.run)
        prepared.batch.timers_gone.extend((timer.run, timer.name) for timer in work.timers)

    def _suspend(
        self, work: _Work, cached: CachedRun, now: datetime, prepared: Prepared, reason: StallReason, message: str
    ) -> None:
        """Stall a run at the first thing that it has to take, an arrival or a timer: that waits in its log."""
        fired: set[str] = set()
        waiting = [arrival for arrival in work.arrivals if arrival not in prepared.taken]
        if waiting:
            cached.execution.suspend(_input(waiting[0]), now, reason, message)
            prepared.take(waiting[0])
        elif work.timers:
            fired.add(work.timers[0].name)
            timer = Input(EventKind.TIMER_FIRED, now, key=work.timers[0].name)
            cached.execution.suspend(timer, now, reason, message)
        self._put(work, cached, now, prepared, fired)
        self._cache.let_go(cached.execution)

    def _feed(
        self, work: _Work, now: datetime, log: Log, prepared: Prepared
    ) -> tuple[list[Arrival], CachedRun | None, set[str]]:
        """Feed what the run has to take; return what was taken, the run, and the timers that fired."""
        kinds = {EventKind(arrival.kind) for arrival in work.arrivals}
        row = work.row
        fold_only = _suspended(row) and EventKind.RETRY_REQUESTED not in kinds
        cached = self._load(work, now, log, fold_only=fold_only)
        if cached is not None and cached.execution.broken is not None and kinds & _UNBLOCKING:
            # Only what needs no function is fed; the rest waits for the turn that records the stall.
            self._cache.let_go(cached.execution)
            cached = self._load(work, now, log, fold_only=True)
            work.arrivals = [arrival for arrival in work.arrivals if arrival.kind in _UNBLOCKING]
            work.timers = []
        if cached is None:
            return [], None, set()
        execution = cached.execution
        fed: list[Arrival] = []
        fired: set[str] = set()
        if execution.broken is not None:
            if work.arrivals:
                execution.stall_broken(_input(work.arrivals[0]), now)
                return work.arrivals[:1], cached, fired
            timer = work.timers[0]
            execution.stall_broken(Input(EventKind.TIMER_FIRED, now, key=timer.name), now)
            return [], cached, {timer.name}
        for arrival in work.arrivals:
            if self._already_known(execution, arrival, prepared):
                continue
            execution.feed(_input(arrival), now)
            fed.append(arrival)
            if execution.stopped():
                break
        set_again = {effect.name for effect in execution.decision.effects if isinstance(effect, SetTimer)}
        for timer in work.timers:
            if execution.stopped() or timer.name in set_again:
                continue
            if timer.name in execution.state.timers:
                execution.feed(Input(EventKind.TIMER_FIRED, now, key=timer.name), now)
                fired.add(timer.name)
            else:  # the run knows nothing of it: it would only come back at every look
                prepared.batch.timers_cancelled.append((work.run, timer.name))
        return fed, cached, fired

    def _already_known(self, execution: Execution, arrival: Arrival, prepared: Prepared) -> bool:
        """Drop what the log has already: a late outcome that was on time after all, a signal, or no step's token."""
        state = execution.state
        late = arrival.kind == EventKind.OUTCOME_LATE and arrival.claimant in state.claimants
        again = arrival.kind == EventKind.SIGNAL_RECEIVED and arrival.dedupe in state.mailbox.ids
        if late or again:
            prepared.take(arrival)
            return True
        if arrival.token is not None and arrival.token not in state.tokens:
            prepared.drop(arrival, execution.run)
            return True
        return False

    def _load(self, work: _Work, now: datetime, log: Log, *, fold_only: bool) -> CachedRun | None:
        """Return the run from memory, from its log, or new from its start."""
        row = work.row
        codec = self._definitions.codec
        if row is None:
            start = _start_of(work)
            if start is None or start.saga is None or start.key is None:
                return None
            version = int(json.loads(start.payload or "{}")["version"])
            definition = self._definitions.find(start.saga, version)
            undone = taken_back(json.loads(start.payload or "{}"))
            undoes = (undone[0][0], work.undone) if undone else None
            execution = Execution(work.run, start.key, definition, codec, fold_only=fold_only, undoes=undoes)
            return CachedRun(
                execution, start.saga, start.key, start.shard, version, 0, b"", _digest(_given(start)), now
            )
        cached = None if fold_only else self._cache.get(work.run, row.head)
        if cached is not None:
            return cached
        definition = self._definitions.find(row.saga, row.version)
        # A run that was in memory when the batch began may have made room for another since.
        log = log or self._logs([work.run]).get(work.run, [])
        undoes = self._undoes(work.run, log[0][0].payload) if log else None
        execution = Execution(work.run, row.key, definition, codec, fold_only=fold_only, undoes=undoes)
        execution.replay(event for event, _ in log)
        return CachedRun(
            execution,
            row.saga,
            row.key,
            row.shard,
            row.version,
            row.head,
            row.digest,
            row.input_digest,
            row.started_at,
        )

    def _undoes(self, run: UUID, start: str | None) -> tuple[UUID, list[Event]] | None:
        """Return the run that a run takes back, with its log and those of earlier attempts at that, or None."""
        told, _, _ = (start or "").partition(',"input":')
        if '"undoes":"' not in told:
            return None
        undone = taken_back(json.loads(told + "}"))
        return undone[0][0], [event for one, _ in undone for event in self._log_of(one, run)]

    def _log_of(self, undone: UUID, run: UUID) -> list[Event]:
        """Read the log of a run for the one that undoes it."""
        try:
            return [event for event, _ in self._logs([undone]).get(undone, [])]
        except UnreadableLogs as error:
            raise UnreadableLogs({run: str(error)}) from error

    def _put(self, work: _Work, cached: CachedRun, now: datetime, prepared: Prepared, fired: set[str]) -> None:
        start = _start_of(work) if work.row is None else None
        given = None if start is None else _given(start)
        prepared.put(cached, now, build=self._build, queue_of=self._queue, fired=fired, start=given)

    def _queue(self, task: str) -> str:
        queue = self._queues.get(task)
        if queue is None:
            queue = self._queues[task] = self._route(task)
        return queue


def _suspended(row: RunRow | None) -> bool:
    """Say whether a run stands stalled because its function cannot go on."""
    return row is not None and row.status == Status.STALLED and row.reason in SUSPENDING


def _by_parent(arrival: Arrival) -> bool:
    return arrival.kind in _UNBLOCKING and arrival.dedupe == BY_PARENT


def _by_no_worker(arrival: Arrival) -> bool:
    """Say whether it is how a child or a lock answers: that stands in the child's own log, or is let go of."""
    return arrival.kind in _ANSWERS and arrival.claimant is None


def _start_of(work: _Work) -> Arrival | None:
    first = work.arrivals[0] if work.arrivals else None
    return first if first is not None and first.kind == EventKind.RUN_STARTED else None


def _input(arrival: Arrival) -> Input:
    return Input(
        EventKind(arrival.kind),
        arrival.at,
        arrival.token,
        arrival.attempt,
        arrival.claimant,
        arrival.dedupe,
        arrival.payload,
    )


def _given(start: Arrival) -> str:
    """Return the input of a start, as JSON text."""
    return json_after(start.payload or "", "input")


def _digest(given: str) -> bytes:
    return hashlib.sha256(given.encode()).digest()
