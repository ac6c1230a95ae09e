"""Several runs driven turn by turn: the real turns over an inbox, logs and timers in memory, by a clock of its own.

What a batch commits is applied as P9 applies it, and refused as P9 refuses it. It knows no database.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from saga.core.definition import SagaDefinition
from saga.core.events import EventKind, start_payload
from saga.core.lifecycle import Status
from saga.core.outcome import wrap
from saga.engine.cache import Cache
from saga.engine.codec import JsonCodec
from saga.engine.records import Arrival, DueTimer, Incident, NewRun, NewTask, RunChange, RunRow, Taken
from saga.engine.registry import Definitions
from saga.engine.turn import Log, Prepared, Turns
from tests.unit.driven import BEGAN, RUN

SHARD = 7


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
        self.reads: list[set[UUID]] = []  #: runs whose logs were read, look by look
        self.moves = 0  #: how often the host was told that it is alive
        self._cache_runs = cache_runs
        self._ids = 0
        self.deploy(*sagas)

    def deploy(self, *sagas: SagaDefinition) -> None:
        """Go on as another process with this code: nothing is in memory."""
        definitions = Definitions(JsonCodec())
        definitions.sagas = {(saga.name, saga.version): saga for saga in sagas}
        self.turns = Turns(
            definitions,
            Cache(self._cache_runs),
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

    def ask(self, kind: EventKind, saga: str, key: str) -> Arrival:
        """Send what a client asks of a run by its address."""
        return self._send(kind, saga=saga, key=key)

    def end(self, run: UUID, task: str, kind: EventKind = EventKind.STEP_SUCCEEDED, value: Any = 1) -> Arrival:
        """Record the outcome of an attempt that is in flight."""
        found = next(t for t in self.tasks.values() if t.run == run and t.name.rpartition("steps.")[2] == task)
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

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    # -- turns -----------------------------------------------------------------------------------------------------

    def take(self, *, starts: bool = True) -> Taken:
        """P7; `starts=False` leaves starts where they are."""
        arrivals = sorted((a for a in self.inbox if starts or a.lane == 0), key=lambda a: (a.lane, a.id))
        due = [DueTimer(run, name, SHARD, at) for (run, name), at in self.timers.items() if at <= self.now]
        addresses = {(a.saga, a.key) for a in arrivals}
        concerned = {a.run for a in arrivals} | {timer.run for timer in due}
        runs = {id: row for id, row in self.rows.items() if id in concerned or (row.saga, row.key) in addresses}
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
        for change in batch.changes:
            assert self.rows[change.id].head == change.old_head, "SG001: the run has another head"
            self.rows[change.id] = _changed(self.rows[change.id], change)
        for new in batch.events:
            log = self.logs.setdefault(new.run, [])
            assert new.event.seq == len(log) + 1, "the log has a gap"
            log.append((new.event, new.digest))
        for token in batch.fences:
            task = self.tasks.pop(token, None)
            if task is not None:
                self._send(EventKind.STEP_NEVER_STARTED, run=task.run, token=token, attempt=task.attempt)
        for token in batch.kills:
            self.tasks.pop(token, None)
        self.tasks |= {task.token: task for task in batch.tasks}
        self.timers |= {(timer.run, timer.name): timer.due_at for timer in batch.timers}
        self.incidents += batch.incidents

    def _read(self, runs: Iterable[UUID]) -> dict[UUID, Log]:
        asked = set(runs)
        self.reads.append(asked)
        return {run: list(self.logs[run]) for run in asked if run in self.logs}

    def _move(self) -> None:
        self.moves += 1

    # -- what is seen ----------------------------------------------------------------------------------------------

    def status(self, run: UUID) -> Status:
        return Status(self.rows[run].status)

    def kinds(self, run: UUID) -> list[EventKind]:
        return [event.kind for event, _ in self.logs[run]]

    def in_flight(self, run: UUID) -> list[str]:
        """Name the attempts that are with a worker, by their task's short name."""
        return [task.name.rpartition("steps.")[2] for task in self.tasks.values() if task.run == run]


def _row(run: NewRun) -> RunRow:
    return RunRow(**{name: getattr(run, name) for name in RunRow.__slots__})


def _changed(row: RunRow, change: RunChange) -> RunRow:
    kept = ("build", "status", "reason", "cause", "head", "digest", "ended_at")
    return replace(row, **{name: getattr(change, name) for name in kept})
