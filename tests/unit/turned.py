"""Several runs driven turn by turn: the real turns over an inbox, logs and timers in memory, by a clock of its own.

What a batch commits is applied as P9 applies it, and refused as P9 refuses it: what runs send each other, and the lines
for locks, too. It knows no database.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from saga.core.definition import SagaDefinition
from saga.core.events import EventKind, start_payload
from saga.core.execution import Execution
from saga.core.lifecycle import ENDED, Cause, StallReason, Status
from saga.core.outcome import wrap
from saga.engine.cache import Cache
from saga.engine.codec import JsonCodec
from saga.engine.preparing import Prepared
from saga.engine.records import Arrival, Batch, DueTimer, Incident, NewRun, NewTask, RunChange, RunRow, Taken
from saga.engine.registry import Definitions
from saga.engine.stuck import fold
from saga.engine.turn import Log, Turns
from tests.unit.driven import BEGAN, RUN

SHARD = 7


@dataclass(slots=True)
class Place:
    """A place in the line for a semantic lock, as the table `lock` has it."""

    name: str
    run: UUID
    token: UUID
    attempt: int
    holder: str
    held: bool = False
    answered: UUID | None = None


class Turned:
    """Runs of a few sagas. Attempts in flight are named by their run's key and their task's short name."""

    def __init__(self, *sagas: SagaDefinition, cache_runs: int = 100) -> None:
        self.now = BEGAN
        self.inbox: list[Arrival] = []
        self.timers: dict[tuple[UUID, str], datetime] = {}
        self.rows: dict[UUID, RunRow] = {}
        self.logs: dict[UUID, Log] = {}
        self.tasks: dict[UUID, NewTask] = {}
        self.incidents: list[Incident] = []
        self.places: list[Place] = []  #: the lines for all locks, in the order of their ids
        self.fails = 0  #: reads of logs that will fail
        self.reads: list[set[UUID]] = []  #: runs whose logs were read, look by look
        self.results: dict[UUID, str | None] = {}
        self.held: set[UUID] = set()  #: runs on which nobody takes turns
        self.claimed: set[UUID] = set()  #: tokens that a worker has in hand
        self.moves = 0  #: how often the host was told that it is alive
        self._cache_runs = cache_runs
        self._ids = 0
        self.deploy(*sagas)

    def deploy(self, *sagas: SagaDefinition) -> None:
        """Go on as another process with this code: nothing is in memory."""
        self.definitions = definitions = Definitions(JsonCodec())
        definitions.sagas = {(saga.name, saga.version): saga for saga in sagas}
        self.cache = cache = Cache(self._cache_runs)
        self.turns = Turns(
            definitions,
            cache,
            build="build-1",
            route=lambda task: "celery",
            logs=self._read,
            start_waits=lambda saga, key: any(
                a.kind == EventKind.RUN_STARTED and (a.saga, a.key) == (saga, key) for a in self.inbox
            ),
            moved=self._move,
            seconds=5.0,
        )

    # -- what arrives ----------------------------------------------------------------------------------------------

    def start(self, saga: SagaDefinition, key: str) -> UUID:
        """Send a start."""
        run = uuid5(RUN, f"{saga.name}/{key}")
        payload = start_payload(saga.version, saga.timeout_seconds, "1")
        self._send(EventKind.RUN_STARTED, lane=1, run=run, saga=saga.name, key=key, payload=payload)
        return run

    def ask(
        self, kind: EventKind, saga: str, key: str, *, step: str | None = None, payload: str | None = None
    ) -> Arrival:
        """Send what a client or an operator asks of a run by its address."""
        return self._send(kind, saga=saga, key=key, dedupe=step, payload=payload)

    def end(self, run: UUID, task: str, kind: EventKind = EventKind.STEP_SUCCEEDED, value: Any = 1) -> Arrival:
        """Record the outcome of an attempt that is in flight."""
        found = self._task(run, task)
        del self.tasks[found.token]
        payload = wrap(json.dumps(value), worker="w/1", ran_seconds=0.1)
        self._ids += 1
        claimant = uuid5(found.token, str(self._ids))
        return self._send(kind, run=run, token=found.token, attempt=found.attempt, claimant=claimant, payload=payload)

    def _send(self, kind: EventKind, *, lane: int = 0, **values: Any) -> Arrival:
        self._ids += 1
        self.now += timedelta(seconds=1)
        empty = dict.fromkeys(("run", "saga", "key", "token", "attempt", "claimant", "dedupe", "payload"))
        arrival = Arrival(id=self._ids, shard=SHARD, lane=lane, kind=kind.value, at=self.now, **{**empty, **values})
        self.inbox.append(arrival)
        return arrival

    def repeat(self, arrival: Arrival) -> None:
        """Send again what had arrived already."""
        self._ids += 1
        self.inbox.append(replace(arrival, id=self._ids))

    def claim(self, run: UUID, task: str) -> None:
        """Let a worker begin: what it has in hand is not taken back any more."""
        self.claimed.add(self._task(run, task).token)

    def hold(self, run: UUID) -> None:
        """Let nobody take turns on a run."""
        self.held.add(run)

    def let_go(self, run: UUID) -> None:
        """Let turns be taken on it again."""
        self.held.discard(run)

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    # -- turns -----------------------------------------------------------------------------------------------------

    def take(self, *, starts: bool = True) -> Taken:
        """P7; `starts=False` leaves starts where they are."""
        free = [a for a in self.inbox if a.run not in self.held]
        arrivals = sorted((a for a in free if starts or a.lane == 0), key=lambda a: (a.lane, a.id))
        due = [DueTimer(run, name, SHARD, at) for (run, name), at in self.timers.items() if at <= self.now]
        due = [timer for timer in due if timer.run not in self.held]
        addresses = {(a.saga, a.key) for a in arrivals}
        concerned = {a.run for a in arrivals} | {timer.run for timer in due}
        runs = {id: row for id, row in self.rows.items() if id in concerned or (row.saga, row.key) in addresses}
        # As its host does: the rows of runs that are in memory are not read.
        runs |= self.cache.rows([run for run in concerned if run is not None], "build-1")
        return Taken(self.now, tuple(arrivals), tuple(due), runs, more=False)

    def turn(self, *, starts: bool = True) -> Prepared:
        """Take, decide, commit."""
        prepared = self.turns.decide(self.take(starts=starts))
        self.commit(prepared)
        return prepared

    def commit(self, prepared: Prepared) -> None:
        """P9."""
        batch = prepared.batch
        assert len(set(batch.taken)) == len(batch.taken), "an arrival is taken twice"
        assert set(batch.taken) <= {arrival.id for arrival in self.inbox}, "SG001: arrivals were taken before"
        self.inbox = [arrival for arrival in self.inbox if arrival.id not in batch.taken]
        assert set(batch.timers_gone) <= self.timers.keys(), "SG001: timers are gone already"
        for timer in (*batch.timers_gone, *batch.timers_cancelled):
            self.timers.pop(timer, None)
        for run in batch.runs:
            assert run.id not in self.rows, "SG001: the run exists already"
            self.rows[run.id] = _row(run)
            self.results[run.id] = run.result
        for change in batch.changes:
            assert self.rows[change.id].head == change.old_head, "SG001: the run has another head"
            self.rows[change.id] = _changed(self.rows[change.id], change)
            self.results[change.id] = change.result
        for new in batch.events:
            log = self.logs.setdefault(new.run, [])
            assert new.event.seq == len(log) + 1, "the log has a gap"
            log.append((new.event, new.digest))
        for token in batch.fences:
            task = None if token in self.claimed else self.tasks.pop(token, None)
            if task is not None:
                self._send(EventKind.STEP_NEVER_STARTED, run=task.run, token=token, attempt=task.attempt)
        for token in batch.kills:
            self.tasks.pop(token, None)
        assert not any(task.token in self.tasks for task in batch.tasks), "23505: the task exists already"
        self.tasks |= {task.token: task for task in batch.tasks}
        self.claimed.difference_update(task.token for task in batch.tasks)
        self.timers |= {(timer.run, timer.name): timer.due_at for timer in batch.timers}
        self.incidents += batch.incidents
        for sent in batch.sent:
            self._send(
                EventKind(sent.kind),
                lane=sent.lane,
                run=sent.run,
                saga=sent.saga,
                key=sent.key,
                token=sent.token,
                attempt=sent.attempt,
                dedupe=sent.dedupe,
                payload=sent.payload,
            )
        self._turn_locks(batch)

    def _turn_locks(self, batch: Batch) -> None:
        """Move the lines for locks on as `turn_locks_v1` does."""
        for asked in batch.lock_requests:
            known = next((p for p in self.places if (p.name, p.run) == (asked.name, asked.run)), None)
            if known is None:
                self.places.append(Place(asked.name, asked.run, asked.token, asked.attempt, asked.holder))
            else:
                known.token, known.attempt = asked.token, asked.attempt
        for place in [p for p in self.places if p.token in batch.locks_withdrawn and not p.held]:
            self.places.remove(place)
            self._send(EventKind.STEP_NEVER_STARTED, run=place.run, token=place.token, attempt=place.attempt)
        self.places = [place for place in self.places if place.run not in batch.locks_released]
        for name in {place.name for place in self.places}:
            line = [place for place in self.places if place.name == name]
            if not any(place.held for place in line):
                line[0].held = True
        for place in self.places:
            if place.held and place.answered != place.token:
                place.answered = place.token
                self._answer(place, EventKind.STEP_SUCCEEDED, "null")
        hasty = {asked.token for asked in batch.lock_requests if not asked.wait}
        for place in [p for p in self.places if p.token in hasty and not p.held]:
            self.places.remove(place)
            holder = next(p.holder for p in self.places if p.name == place.name and p.held)
            said = json.dumps({"type": "", "message": f"it is held by {holder}"})
            self._answer(place, EventKind.STEP_FAILED, said)

    def _answer(self, place: Place, kind: EventKind, value: str) -> None:
        payload = f'{{"value":{value}}}'
        self._send(kind, run=place.run, token=place.token, attempt=place.attempt, payload=payload)

    def rest(self) -> None:
        """Take turns until nothing is left that a turn takes."""
        for _ in range(1_000):
            prepared = self.turn()
            batch = prepared.batch
            if not (batch.taken or batch.timers_gone or batch.timers_cancelled):
                return
        raise AssertionError(f"the runs make no end: {self.inbox}")

    def succeed(self, run: UUID, *tasks: str, value: Any = 1) -> None:
        """Let attempts succeed, one after the other, and what follows come to rest."""
        for task in tasks:
            self.end(run, task, value=value)
            self.rest()

    def fail(self, run: UUID, task: str) -> None:
        """Let an attempt end in Abort, and what follows come to rest."""
        self.end(run, task, EventKind.STEP_FAILED, {"type": "saga.core.errors.Abort", "message": f"no {task}"})
        self.rest()

    def cancel(self, saga: SagaDefinition, key: str) -> None:
        """Cancel a run, and let what follows come to rest."""
        self.ask(EventKind.CANCEL_REQUESTED, saga.name, key)
        self.rest()

    def terminate(self, saga: SagaDefinition, key: str) -> None:
        """Terminate a run, and let what follows come to rest."""
        self.ask(EventKind.TERMINATE_REQUESTED, saga.name, key)
        self.rest()

    def retry(self, saga: SagaDefinition, key: str) -> None:
        """Retry a stalled run, and let what follows come to rest."""
        self.ask(EventKind.RETRY_REQUESTED, saga.name, key)
        self.rest()

    def resolve(self, saga: SagaDefinition, key: str, step: str, result: Any = None) -> None:
        """Resolve a stuck step, and let what follows come to rest."""
        payload = f'{{"evidence":"looked","result":{json.dumps(result)}}}'
        self.ask(EventKind.RESOLVED, saga.name, key, step=step, payload=payload)
        self.rest()

    def _read(self, runs: Iterable[UUID]) -> dict[UUID, Log]:
        asked = set(runs)
        if self.fails:
            self.fails -= 1
            raise ConnectionError("Postgres is gone")
        self.reads.append(asked)
        return {run: list(self.logs[run]) for run in asked if run in self.logs}

    def _move(self) -> None:
        self.moves += 1

    # -- what is seen ----------------------------------------------------------------------------------------------

    def status(self, run: UUID) -> Status:
        return Status(self.rows[run].status)

    def kinds(self, run: UUID) -> list[EventKind]:
        return [event.kind for event, _ in self.logs[run]]

    def run_of(self, saga: SagaDefinition, key: str) -> UUID:
        """Return the run that has an address."""
        return next(row.id for row in self.rows.values() if (row.saga, row.key) == (saga.name, key))

    def result(self, run: UUID) -> Any:
        """Return what a run returned, or None."""
        return json.loads(self.results[run] or "null")

    def cause(self, run: UUID) -> Cause | None:
        """Return why a run was undone."""
        cause = self.rows[run].cause
        return None if cause is None else Cause(cause)

    def given(self, run: UUID, task: str) -> Any:
        """Return the input of an attempt that is in flight."""
        return json.loads(self._task(run, task).input)

    def attempt(self, run: UUID, task: str) -> int:
        """Return the number of an attempt that is in flight."""
        return self._task(run, task).attempt

    def _task(self, run: UUID, task: str) -> NewTask:
        found = [t for t in self.tasks.values() if t.run == run and _short(t) == task]
        assert found, f"{task} is not in flight: {self.in_flight(run)}"
        return found[0]

    def keys(self, saga: SagaDefinition) -> list[str]:
        """Return the keys of a saga's runs, oldest first."""
        return [row.key for row in self.rows.values() if row.saga == saga.name]

    def reason(self, run: UUID) -> StallReason | None:
        """Return why a run is stalled, if it is."""
        row = self.rows[run]
        return StallReason(row.reason) if row.reason and row.status == Status.STALLED else None

    def holder(self, name: str) -> UUID | None:
        """Return the run that holds a lock."""
        return next((place.run for place in self.places if place.name == name and place.held), None)

    def check(self) -> None:
        """Hold every log against its row and its replay; nothing of what has ended may be left."""
        for run, log in self.logs.items():
            row = self.rows[run]
            undoes = self.turns._undoes(run, log[0][0].payload)
            definition = self.definitions.find(row.saga, row.version)
            execution = Execution(run, row.key, definition, self.definitions.codec, undoes=undoes)
            execution.replay(event for event, _ in log)
            assert execution.status == row.status, f"{row.saga}/{row.key} is {row.status}, its log {execution.status}"
            if row.status != Status.STALLED:
                assert execution.broken is None, execution._message
            assert not execution.take().events
            execution.drop()
            folded = fold(run, [event for event, _ in log], lambda of: [event for event, _ in self.logs.get(of, [])])
            assert folded.status == row.status, f"an operator is shown {row.saga}/{row.key} as {folded.status}"
            if row.status in ENDED:
                left = [name for of, name in self.timers if of == run]
                assert not left, f"{row.saga}/{row.key} has ended and left timers: {left}"
                assert not [p for p in self.places if p.run == run], f"{row.saga}/{row.key} has ended and left locks"
                assert not self.in_flight(run), f"{row.saga}/{row.key} has ended and left attempts"

    def in_flight(self, run: UUID) -> list[str]:
        """Name the attempts that are with a worker, by their task's short name."""
        return [_short(task) for task in self.tasks.values() if task.run == run]


def _short(task: NewTask) -> str:
    return (
        task.name.rpartition(".compensate")[0].rpartition(".")[2] + ".compensate"
        if task.name.endswith(".compensate")
        else task.name.rpartition(".")[2]
    )


def _row(run: NewRun) -> RunRow:
    return RunRow(**{name: getattr(run, name) for name in RunRow.__slots__})


def _changed(row: RunRow, change: RunChange) -> RunRow:
    kept = ("build", "status", "reason", "cause", "head", "digest", "ended_at")
    return replace(row, **{name: getattr(change, name) for name in kept})
