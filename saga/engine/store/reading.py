"""What clients and commands look at, without any lock. It changes nothing; what it reads may be old already."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from saga.core.events import Event, EventKind
from saga.engine.records import Arrival, RunRow
from saga.engine.store.connect import Connection
from saga.engine.store.logs import event_of
from saga.engine.store.names import statement
from saga.engine.store.turning import RUN_COLUMNS

_FIND = "SELECT {columns}, input, result, failure, state, attributes FROM {s}.run WHERE saga = %s AND key = %s"

# Run ids are UUIDv7: their order is the order of starting, and a page begins behind the last one's id.
_LIST = """
SELECT {columns} FROM {s}.run
WHERE id < %(before)s AND (%(saga)s::text IS NULL OR saga = %(saga)s)
ORDER BY id DESC LIMIT %(limit)s
"""

# LATERAL: each status is a walk of its own down the index, so that a few stalled runs are found among millions.
_LIST_BY_STATUS = """
SELECT x.* FROM unnest(%(statuses)s::text[]) AS wanted(status_wanted),
LATERAL (
    SELECT {columns} FROM {s}.run
    WHERE status = status_wanted AND id < %(before)s AND (%(saga)s::text IS NULL OR saga = %(saga)s)
    ORDER BY id DESC LIMIT %(limit)s
) x
ORDER BY x.id DESC LIMIT %(limit)s
"""

# The partial index is used only where the query implies its predicate: that is why it says what `@>` says already.
_LIST_BY_ATTRIBUTES = """
SELECT {columns} FROM {s}.run
WHERE attributes @> %(attributes)s::jsonb AND attributes <> '{}' AND id < %(before)s
  AND (%(saga)s::text IS NULL OR saga = %(saga)s)
  AND (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s::text[]))
ORDER BY id DESC LIMIT %(limit)s
"""

_LAST = UUID(int=2**128 - 1)

_EVENTS = """
SELECT run, seq, kind, at, token, attempt, claimant, key, payload, digest FROM {s}.event
WHERE run = %s AND seq > %s ORDER BY seq
"""

_TASKS = """
SELECT token, attempt, id, name, queue, created_at, claimed_by, claimed_at, lease_until FROM {s}.task
WHERE shard = (SELECT shard FROM {s}.run WHERE id = %(run)s) AND run = %(run)s ORDER BY id
"""

_TIMERS = "SELECT name, due_at FROM {s}.timer WHERE run = %s ORDER BY due_at"

_LOCKS = """
SELECT l.name, l.held, h.holder,
       (SELECT count(*) FROM {s}.lock b WHERE b.name = l.name AND NOT b.held AND b.id < l.id)
FROM {s}.lock l LEFT JOIN {s}.lock h ON h.name = l.name AND h.held
WHERE l.run = %s ORDER BY l.id
"""

_STANDING = "SELECT id, status, reason FROM {s}.run WHERE id = ANY (%s)"

_INCIDENTS = """
SELECT id, run, token, attempt, kind, payload, at FROM {s}.incident
WHERE %(run)s::uuid IS NULL OR run = %(run)s ORDER BY id DESC LIMIT %(limit)s
"""

_COORDINATORS = """
SELECT c.id, c.build, c.started_at, c.lease_until, c.dead_at,
       c.dead_at IS NULL AND c.lease_until > clock_timestamp(),
       ARRAY (SELECT s.id FROM {s}.shard s WHERE s.owner = c.id ORDER BY s.id)
FROM {s}.coordinator c WHERE %(all)s OR c.dead_at IS NULL ORDER BY c.started_at
"""

_DEPTHS = """
SELECT 'lane', lane::text, count(*), min(at) FROM {s}.inbox GROUP BY lane
UNION ALL
SELECT 'unclaimed', queue, count(*), min(created_at) FROM {s}.task WHERE claimed_by IS NULL GROUP BY queue
UNION ALL
SELECT 'claimed', queue, count(*), min(claimed_at) FROM {s}.task WHERE claimed_by IS NOT NULL GROUP BY queue
"""

_PENDING = """
SELECT id, shard, lane, run, saga, key, kind, token, attempt, claimant, dedupe, payload, at FROM {s}.inbox
WHERE saga = %(saga)s AND key = %(key)s
   OR run = (SELECT r.id FROM {s}.run r WHERE r.saga = %(saga)s AND r.key = %(key)s)
ORDER BY id
"""

_ANSWER = "SELECT payload FROM {s}.event WHERE run = %s AND kind = 'UpdateAnswered' AND key = %s ORDER BY seq LIMIT 1"

_STATUSES = "SELECT status, count(*) FROM {s}.run GROUP BY status"


@dataclass(frozen=True, slots=True)
class FoundRun:
    """A run with its texts: the input, and the result or failure once it has one."""

    row: RunRow
    input: str
    result: str | None
    failure: str | None
    state: str | None = None  #: JSON text that the saga shows
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Look:
    """What there is of an address: its run, or what has arrived for a run that no turn has made yet."""

    found: FoundRun | None
    waiting: tuple[Arrival, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether a start waits for a coordinator."""
        return any(arrival.kind == EventKind.RUN_STARTED for arrival in self.waiting)


@dataclass(frozen=True, slots=True)
class OpenTask:
    """An attempt that is queued (nobody has claimed it) or being run."""

    token: UUID
    attempt: int
    id: int
    name: str
    queue: str
    created_at: datetime
    claimed_by: UUID | None
    claimed_at: datetime | None
    lease_until: datetime | None


@dataclass(frozen=True, slots=True)
class OpenTimer:
    """When a run wants to be woken, and by which name."""

    name: str
    due_at: datetime


@dataclass(frozen=True, slots=True)
class LockPlace:
    """A run's place at a semantic lock; `holder` is the address of whoever has it, `ahead` how many stand before it."""

    name: str
    held: bool
    holder: str | None
    ahead: int


@dataclass(frozen=True, slots=True)
class RecordedIncident:
    """An incident as it stands in the table."""

    id: int
    run: UUID | None
    token: UUID | None
    attempt: int | None
    kind: str
    payload: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class CoordinatorRow:
    """A coordinator and its shards; `alive` is a lease that has not run out, in Postgres time."""

    id: UUID
    build: str
    started_at: datetime
    lease_until: datetime
    dead_at: datetime | None
    alive: bool
    shards: list[int]


@dataclass(frozen=True, slots=True)
class Depth:
    """How much waits at one place, and since when the oldest of it."""

    count: int
    oldest: datetime


@dataclass(frozen=True, slots=True)
class Depths:
    """What waits where: arrivals and starts for coordinators, unclaimed tasks for workers, and what those run."""

    arrivals: Depth | None
    starts: Depth | None
    unclaimed: dict[str, Depth]
    claimed: dict[str, Depth]


class Reading:
    """The looks of clients and commands, bound to a schema. Each raises psycopg.Error where nothing could be read."""

    def __init__(self, schema: str) -> None:
        self._find = statement(schema, _FIND, columns=RUN_COLUMNS)
        self._answer = statement(schema, _ANSWER)
        self._list = statement(schema, _LIST, columns=RUN_COLUMNS)
        self._list_by_status = statement(schema, _LIST_BY_STATUS, columns=RUN_COLUMNS)
        self._list_by_attributes = statement(schema, _LIST_BY_ATTRIBUTES, columns=RUN_COLUMNS)
        self._locks = statement(schema, _LOCKS)
        self._standing = statement(schema, _STANDING)
        self._events = statement(schema, _EVENTS)
        self._tasks = statement(schema, _TASKS)
        self._timers = statement(schema, _TIMERS)
        self._incidents = statement(schema, _INCIDENTS)
        self._coordinators = statement(schema, _COORDINATORS)
        self._depths = statement(schema, _DEPTHS)
        self._pending = statement(schema, _PENDING)
        self._statuses = statement(schema, _STATUSES)

    @contextmanager
    def snapshot(self, connection: Connection) -> Iterator[None]:
        """Let all looks in the block see the same moment, as one transaction that only reads.

        Raises:
            psycopg.Error: nothing was read.
        """
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield

    def find(self, connection: Connection, saga: str, key: str) -> FoundRun | None:
        """Read the run with this address; None: there is none, or its start is not taken yet (see `look`).

        Raises:
            psycopg.Error: nothing was read.
        """
        row = connection.execute(self._find, (saga, key)).fetchone()
        return None if row is None else FoundRun(RunRow(*row[:14]), *row[14:])

    def answer(self, connection: Connection, run: UUID, id: str) -> str | None:
        """Read the payload of the answer to an update, or None where there is none yet.

        Raises:
            psycopg.Error: nothing was read.
        """
        row = connection.execute(self._answer, (run, id)).fetchone()
        return None if row is None else str(row[0])

    def look(self, connection: Connection, saga: str, key: str) -> Look:
        """Read the run with this address, or else what has arrived for it; a start is never seen nowhere.

        Raises:
            psycopg.Error: nothing was read.
        """
        found = self.find(connection, saga, key)
        if found is not None:
            return Look(found)
        looked = Look(None, tuple(self.pending_arrivals(connection, saga, key)))
        if looked.accepted:
            return looked
        # A turn may have taken the start between the two looks; then the run is there now.
        return replace(looked, found=self.find(connection, saga, key))

    def list_runs(
        self,
        connection: Connection,
        *,
        status: str | Sequence[str] | None = None,
        saga: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        limit: int = 50,
        before: UUID | None = None,
    ) -> list[RunRow]:
        """Read a page of runs, newest first; `before` is the id of the last one of the page before.

        `attributes` are what `ctx.set_attributes` must have set, all of them.

        Raises:
            psycopg.Error: nothing was read.
        """
        statuses = None if status is None else [status] if isinstance(status, str) else list(status)
        values = {"statuses": statuses, "saga": saga, "before": before or _LAST, "limit": limit}
        query = self._list if statuses is None else self._list_by_status
        if attributes:
            query = self._list_by_attributes
            values["attributes"] = json.dumps(attributes)
        return [RunRow(*row) for row in connection.execute(query, values)]

    def events(self, connection: Connection, run: UUID, after_seq: int = 0) -> list[tuple[Event, bytes]]:
        """Read a run's log behind `after_seq`, each event with its digest.

        Raises:
            UnreadableLogs: the log holds what this code does not know.
            psycopg.Error: nothing was read.
        """
        return [(event_of(row), row[9]) for row in connection.execute(self._events, (run, after_seq))]

    def log(self, connection: Connection, run: UUID) -> list[Event]:
        """Read a run's log without its digests.

        Raises:
            UnreadableLogs: the log holds what this code does not know.
            psycopg.Error: nothing was read.
        """
        return [event for event, _ in self.events(connection, run)]

    def open_tasks(self, connection: Connection, run: UUID) -> list[OpenTask]:
        """Read the attempts of a run that are queued or being run.

        Raises:
            psycopg.Error: nothing was read.
        """
        return [OpenTask(*row) for row in connection.execute(self._tasks, {"run": run})]

    def timers(self, connection: Connection, run: UUID) -> list[OpenTimer]:
        """Read what a run waits for in time, soonest first.

        Raises:
            psycopg.Error: nothing was read.
        """
        return [OpenTimer(*row) for row in connection.execute(self._timers, (run,))]

    def locks(self, connection: Connection, run: UUID) -> list[LockPlace]:
        """Read the semantic locks that a run holds or stands in line for, in the order of asking.

        Raises:
            psycopg.Error: nothing was read.
        """
        return [LockPlace(*row) for row in connection.execute(self._locks, (run,))]

    def standing(self, connection: Connection, runs: Iterable[UUID]) -> dict[UUID, tuple[str, str | None]]:
        """Read where runs stand: status, and the reason of a stall. One that no turn has made yet is left out.

        Raises:
            psycopg.Error: nothing was read.
        """
        ids = list(runs)
        rows = connection.execute(self._standing, (ids,)).fetchall() if ids else []
        return {run: (status, reason) for run, status, reason in rows}

    def incidents(self, connection: Connection, run: UUID | None = None, *, limit: int = 100) -> list[RecordedIncident]:
        """Read the incidents of a run, or of all runs, newest first.

        Raises:
            psycopg.Error: nothing was read.
        """
        return [RecordedIncident(*row) for row in connection.execute(self._incidents, {"run": run, "limit": limit})]

    def coordinators(self, connection: Connection, *, buried: bool = False) -> list[CoordinatorRow]:
        """Read the coordinators, oldest first, and on request the buried ones too.

        Raises:
            psycopg.Error: nothing was read.
        """
        rows = connection.execute(self._coordinators, {"all": buried})
        return [CoordinatorRow(*row) for row in rows]

    def depths(self, connection: Connection) -> Depths:
        """Count what waits in the inbox and, for each queue, the tasks.

        Raises:
            psycopg.Error: nothing was read.
        """
        found: dict[str, dict[str, Depth]] = {"lane": {}, "unclaimed": {}, "claimed": {}}
        for place, name, count, oldest in connection.execute(self._depths):
            found[place][name] = Depth(count, oldest)
        return Depths(found["lane"].get("0"), found["lane"].get("1"), found["unclaimed"], found["claimed"])

    def pending_arrivals(self, connection: Connection, saga: str, key: str) -> list[Arrival]:
        """Read what has arrived for an address and no turn has taken yet.

        Raises:
            psycopg.Error: nothing was read.
        """
        return [Arrival(*row) for row in connection.execute(self._pending, {"saga": saga, "key": key})]

    def statuses(self, connection: Connection) -> dict[str, int]:
        """Count the runs by status.

        Raises:
            psycopg.Error: nothing was read.
        """
        return dict(connection.execute(self._statuses).fetchall())
