"""What a coordinator reads for its turns, the call that commits them, the look after a lost reply (P7, P9, P10).

It holds no lock while it returns, and knows nothing of definitions or decisions.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from saga.core.events import Event, EventKind
from saga.engine.records import Arrival, Batch, DueTimer, Place, RunRow, Taken
from saga.engine.store.batches import arguments_of
from saga.engine.store.connect import Connection
from saga.engine.store.failures import CommitUnknown, Fenced, failure_of, watch_replication
from saga.engine.store.logs import UnreadableLogs, event_of
from saga.engine.store.names import statement

log = logging.getLogger("saga.coordinator")

#: Bytes of payload after which a take adds no further arrival: 8 MiB. A batch writes each several times.
TAKE_BYTES_MAX = 8 * 1_048_576
#: So many arrivals of one shard that rang want a take in full: with a value of 1 MiB each they come to as much.
TAKE_RUNG_MAX = 8

# LATERAL by shard and lane: each is a walk of its own down the index, so a backlog of one shard, or of starts, hides no
# other. A payload's length is known without reading it: what is beyond the bound stays where it is. The scalar
# sub-select of the clock is computed once and lets the index find what is due; a bare clock_timestamp() would be
# computed for each row. The outer join answers with the time where nothing else is found.
_TAKE = """
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
arrived AS (
    SELECT x.*, sum(x.size) OVER (ORDER BY x.lane, x.id ROWS UNBOUNDED PRECEDING) AS bytes
    FROM unnest(%(shards)s::smallint[], %(lanes)s::smallint[], %(floors)s::bigint[], %(limits)s::integer[])
        AS place(shard, lane, floor, most),
    LATERAL (
        SELECT i.*, COALESCE(octet_length(i.payload), 0) AS size FROM {s}.inbox i
        WHERE i.shard = place.shard AND i.lane = place.lane AND i.id > place.floor {arrivals}
        ORDER BY i.id LIMIT place.most
    ) x
),
found AS (
    SELECT 0 AS source, id, shard, lane, run, saga, key, kind, token, attempt, claimant, dedupe, payload, at, bytes
    FROM arrived WHERE bytes - size < %(bytes)s
    UNION ALL
    SELECT 1, 0, y.shard, 0, y.run, NULL, y.name, NULL, NULL, NULL, NULL, NULL, NULL, y.due_at, 0
    FROM unnest(%(timer_shards)s::smallint[]) AS mine(shard),
    LATERAL (
        SELECT * FROM {s}.timer t WHERE t.shard = mine.shard AND t.due_at <= (SELECT now FROM clock) {timers}
        ORDER BY t.due_at LIMIT %(timers_limit)s
    ) y
)
SELECT clock.now, found.* FROM clock LEFT JOIN found ON true
"""

# The same for one shard, where only its inbox can have changed: one walk, and in half the time.
_TAKE_ONE = """
SELECT clock.now, found.* FROM (SELECT clock_timestamp() AS now) AS clock LEFT JOIN LATERAL (
    SELECT 0 AS source, id, shard, lane, run, saga, key, kind, token, attempt, claimant, dedupe, payload, at
    FROM {s}.inbox WHERE shard = %s ORDER BY lane, id LIMIT %s
) AS found ON true
"""

# In the walk itself, before its LIMIT: what is passed over must not stand in the way of what is behind it.
_PASSED_OVER_ARRIVALS = """
AND i.kind = ANY (%(kinds)s)
AND (i.run IS NULL OR i.run <> ALL (%(aside)s::uuid[]))
AND (i.saga IS NULL OR (i.saga, i.key) NOT IN (SELECT * FROM unnest(%(sagas)s::text[], %(keys)s::text[])))
"""
_PASSED_OVER_TIMERS = "AND t.run <> ALL (%(aside)s::uuid[])"

_KINDS = [kind.value for kind in EventKind]

#: The columns that make a RunRow, in its order.
RUN_COLUMNS = (
    "id, saga, key, shard, version, build, status, reason, cause, head, digest, input_digest, started_at, ended_at"
)

_RUNS_BY_ID = "SELECT {columns} FROM {s}.run WHERE id = ANY (%s)"

# UNION, not OR: each half has an index of its own.
_RUNS_BY_ID_OR_ADDRESS = """
SELECT {columns} FROM {s}.run WHERE id = ANY (%s)
UNION
SELECT {columns} FROM unnest(%s::text[], %s::text[]) AS sent(saga_sent, key_sent)
JOIN {s}.run ON saga = saga_sent AND key = key_sent
"""

_EVENTS = """
SELECT e.run, e.seq, e.kind, e.at, e.token, e.attempt, e.claimant, e.key, e.payload, e.digest
FROM unnest(%s::uuid[], %s::integer[]) AS seen(run, seq),
LATERAL (SELECT * FROM {s}.event l WHERE l.run = seen.run AND l.seq > seen.seq ORDER BY l.seq) e
"""

# By shard, each a walk down the index from now on.
_DUE_SOON = """
WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now)
SELECT y.due_at FROM unnest(%(shards)s::smallint[]) AS mine(shard),
LATERAL (
    SELECT t.due_at FROM {s}.timer t
    WHERE t.shard = mine.shard AND t.due_at > (SELECT now FROM clock)
      AND t.due_at <= (SELECT now FROM clock) + make_interval(secs => %(seconds)s)
    ORDER BY t.due_at LIMIT %(limit)s
) y
"""

_INPUT = "SELECT input FROM {s}.run WHERE id = %s"

_COMMIT = """
SELECT task_token, task_id FROM {s}.commit_turns_v1(
    %s::uuid, %s::bigint[], %s::json, %s::json, %s::json, %s::json,
    %s::uuid[], %s::uuid[], %s::json, %s::json, %s::json,
    %s::json, %s::json, %s::uuid[], %s::uuid[])
"""

_FENCE = "SELECT dead_at IS NULL FROM {s}.coordinator WHERE id = %s FOR NO KEY UPDATE"

_HEADS = "SELECT id, head FROM {s}.run WHERE id = ANY (%s)"

# Only the backend that sits in the commit call, and not while it waits for a standby: there it is committed already.
_TERMINATE_COMMIT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = %s AND pid <> pg_backend_pid() AND query LIKE '%%commit_turns_v%%'
  AND state <> 'idle' AND wait_event IS DISTINCT FROM 'SyncRep'
"""

_TASK_IDS = "SELECT token, id FROM {s}.task WHERE token = ANY (%s)"

_STALLED = """
SELECT {columns} FROM {s}.run
WHERE status = 'stalled' AND shard = ANY (%s) AND reason = ANY (%s) AND build <> %s
ORDER BY id LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit made: the row ids of its tasks by token, which is what `published` counts in."""

    task_ids: dict[UUID, int]

    @property
    def last_task_id(self) -> int | None:
        """The highest id, or None where no task was inserted."""
        return max(self.task_ids.values(), default=None)


class Turning:
    """P7, P9 and P10, bound to a schema."""

    def __init__(self, schema: str) -> None:
        self._take = statement(schema, _TAKE, arrivals="", timers="")
        self._take_one = statement(schema, _TAKE_ONE)
        self._take_some = statement(schema, _TAKE, arrivals=_PASSED_OVER_ARRIVALS, timers=_PASSED_OVER_TIMERS)
        self._unknown_kinds: set[str] = set()
        self._runs_by_id = statement(schema, _RUNS_BY_ID, columns=RUN_COLUMNS)
        self._runs_by_id_or_address = statement(schema, _RUNS_BY_ID_OR_ADDRESS, columns=RUN_COLUMNS)
        self._events = statement(schema, _EVENTS)
        self._due_soon = statement(schema, _DUE_SOON)
        self._input = statement(schema, _INPUT)
        self._commit = statement(schema, _COMMIT)
        self._fence = statement(schema, _FENCE)
        self._heads = statement(schema, _HEADS)
        self._task_ids = statement(schema, _TASK_IDS)
        self._stalled = statement(schema, _STALLED, columns=RUN_COLUMNS)

    def take(
        self,
        connection: Connection,
        shards: Sequence[int],
        *,
        limit_per_shard: int,
        timers_limit: int,
        bytes_max: int = TAKE_BYTES_MAX,
        starts: bool,
        floors: Mapping[Place, int] | None = None,
        limits: Mapping[Place, int] | None = None,
        known: Container[UUID] = (),
        aside: Mapping[UUID, tuple[str, str]] | None = None,
    ) -> Taken:
        """P7: read what arrived at the shards and which timers are due, without a lock, then the runs they concern.

        The limits hold for each shard, that of arrivals for each lane too, but where `limits` has another;
        `starts=False` leaves starts where they are.
        Beyond `bytes_max` of payload nothing is added. `floors` is what `Floors.current` says. The rows of
        `known` runs are not read: the commit compares their heads. Nothing is deleted: the commit does it, and finds
        out whether somebody else did.

        What newer code has sent, and what is for the runs `aside` (with their saga and key), stays in the inbox, and
        hides nothing that came after it: a coordinator with that code will own the shard.

        Raises:
            psycopg.Error: nothing was read.
        """
        floors, limits = floors or {}, limits or {}
        places = [(shard, lane) for lane in ((0, 1) if starts else (0,)) for shard in shards]
        values: dict[str, Any] = {
            "shards": _array(shard for shard, _ in places),
            "lanes": _array(lane for _, lane in places),
            "floors": _array(floors.get(place, 0) for place in places),
            "limits": _array(limits.get(place, limit_per_shard) for place in places),
            "bytes": bytes_max,
            "timer_shards": _array(shards),
            "timers_limit": timers_limit,
        }
        rows = self._rows(connection, values, aside or {})
        read = Counter(row[3:5] for row in rows if row[1] == 0)
        fired = Counter(row[3] for row in rows if row[1] == 1)
        full = frozenset(place for place, count in read.items() if count >= limits.get(place, limit_per_shard))
        cut = any(row[15] is not None and row[15] >= bytes_max for row in rows)
        more = bool(full) or cut or any(count >= timers_limit for count in fired.values())
        return self._taken(connection, rows, known, more=more, full=full, cut=cut)

    def take_rung(self, connection: Connection, shard: int, *, known: Container[UUID] = ()) -> Taken | None:
        """P7 for one shard that rang, where no timer is due; `known` is as for `take`.

        None: there are TAKE_RUNG_MAX arrivals or more, or such as newer code has sent: it wants `take`.

        Raises:
            psycopg.Error: nothing was read.
        """
        rows = connection.execute(self._take_one, (shard, TAKE_RUNG_MAX)).fetchall()
        if len(rows) >= TAKE_RUNG_MAX or {row[8] for row in rows}.difference(_KINDS, [None]):
            return None
        return self._taken(connection, rows, known)

    def _taken(
        self,
        connection: Connection,
        rows: Sequence[tuple[Any, ...]],
        known: Container[UUID],
        *,
        more: bool = False,
        full: frozenset[Place] = frozenset(),
        cut: bool = False,
    ) -> Taken:
        now: datetime = rows[0][0]
        arrivals = sorted((Arrival(*row[2:15]) for row in rows if row[1] == 0), key=lambda a: (a.lane, a.id))
        timers = sorted(
            (DueTimer(row[5], row[7], row[3], row[14]) for row in rows if row[1] == 1), key=lambda t: t.due_at
        )
        return Taken(
            now=now,
            arrivals=tuple(arrivals),
            timers=tuple(timers),
            runs=self._runs(connection, arrivals, timers, known),
            more=more,
            full=full,
            cut=cut,
        )

    def _rows(
        self, connection: Connection, values: dict[str, Any], aside: Mapping[UUID, tuple[str, str]]
    ) -> list[tuple[Any, ...]]:
        if not aside:
            rows = connection.execute(self._take, values).fetchall()
            unknown = {row[8] for row in rows}.difference(_KINDS, [None])
            if not unknown:
                return rows
            if unknown - self._unknown_kinds:
                self._unknown_kinds |= unknown
                names = ", ".join(sorted(unknown))
                log.warning("arrivals of a kind that newer code has sent (%s) are left to a coordinator with it", names)
        sagas, keys = zip(*aside.values(), strict=True) if aside else ((), ())
        chosen = {"kinds": _KINDS, "aside": list(aside), "sagas": list(sagas), "keys": list(keys)}
        return connection.execute(self._take_some, {**values, **chosen}).fetchall()

    def _runs(
        self, connection: Connection, arrivals: list[Arrival], timers: list[DueTimer], known: Container[UUID]
    ) -> dict[UUID, RunRow]:
        concerned = {a.run for a in arrivals if a.run is not None} | {t.run for t in timers}
        ids = [run for run in concerned if run not in known]
        addresses = {(a.saga, a.key) for a in arrivals if a.saga is not None and a.key is not None}
        if addresses:
            sagas, keys = zip(*addresses, strict=True)
            cursor = connection.execute(self._runs_by_id_or_address, (ids, list(sagas), list(keys)))
        elif ids:
            cursor = connection.execute(self._runs_by_id, (ids,))
        else:
            return {}
        return {row[0]: RunRow(*row) for row in cursor}

    def runs(self, connection: Connection, ids: Iterable[UUID]) -> dict[UUID, RunRow]:
        """Read run rows by id; those that do not exist are left out.

        Raises:
            psycopg.Error: nothing was read.
        """
        return {row[0]: RunRow(*row) for row in connection.execute(self._runs_by_id, (list(ids),))}

    def stalled(
        self,
        connection: Connection,
        shards: Sequence[int],
        reasons: Sequence[str],
        *,
        other_than_build: str,
        limit: int,
    ) -> list[RunRow]:
        """Read the stalled runs of the shards whose last turn another build took: new code may get them going.

        Raises:
            psycopg.Error: nothing was read.
        """
        values = (list(shards), [str(reason) for reason in reasons], other_than_build, limit)
        return [RunRow(*row) for row in connection.execute(self._stalled, values)]

    def events(self, connection: Connection, run: UUID, after_seq: int = 0) -> list[tuple[Event, bytes]]:
        """Read a run's log behind `after_seq`, each event with its digest.

        Raises:
            UnreadableLogs: the log holds what this code does not know.
            psycopg.Error: nothing was read.
        """
        return self.events_of(connection, {run: after_seq}).get(run, [])

    def events_of(self, connection: Connection, after_seq: Mapping[UUID, int]) -> dict[UUID, list[tuple[Event, bytes]]]:
        """Read the logs of several runs at once, each behind its own seq; runs with nothing new are left out.

        Raises:
            UnreadableLogs: some logs hold what this code does not know; it says whose, all of them.
            psycopg.Error: nothing was read.
        """
        logs: dict[UUID, list[tuple[Event, bytes]]] = {}
        unreadable: dict[UUID, str] = {}
        for row in connection.execute(self._events, (list(after_seq), list(after_seq.values()))):
            try:
                logs.setdefault(row[0], []).append((event_of(row), row[9]))
            except UnreadableLogs as error:
                unreadable.setdefault(row[0], str(error))
        if unreadable:
            raise UnreadableLogs(unreadable)
        return logs

    def due_soon(
        self, connection: Connection, shards: Sequence[int], *, seconds: float, limit_per_shard: int
    ) -> list[datetime]:
        """Read when timers of the shards fall due in the next seconds; of each shard the soonest, up to the limit.

        Raises:
            psycopg.Error: nothing was read.
        """
        values = {"shards": _array(shards), "seconds": seconds, "limit": limit_per_shard}
        return [row[0] for row in connection.execute(self._due_soon, values)]

    def run_input(self, connection: Connection, run: UUID) -> str:
        """Read the JSON text that a run was started with.

        Raises:
            LookupError: there is no such run.
            psycopg.Error: nothing was read.
        """
        row = connection.execute(self._input, (run,)).fetchone()
        if row is None:
            raise LookupError(f"run {run} has no row: its start was not committed, or a batch was rewound")
        return str(row[0])

    def commit(self, connection: Connection, me: UUID, batch: Batch) -> Committed:
        """P9: write the whole batch or nothing, durably, fenced by the coordinator's row and by each run's head.

        After any error close the connection and evict every run of the batch.

        Raises:
            Fenced: this coordinator is buried: exit.
            Superseded: something of it was taken, changed or locked by another: take again.
            BatchRefused: a value cannot be stored: halve the batch, and stall the run that is left alone.
            CommitUnknown: nobody knows; look with `read_heads` on a new connection.
        """
        try:
            values = arguments_of(me, batch)
            with watch_replication(connection):
                rows = connection.execute(self._commit, values).fetchall()
        except (psycopg.Error, ValueError, TypeError) as error:
            raise failure_of(error) from error
        return Committed(dict(rows))

    def read_heads(
        self, connection: Connection, me: UUID, runs: Iterable[UUID], *, lock_timeout_seconds: float = 5.0
    ) -> dict[UUID, int]:
        """P10, on a new connection: wait until the lost commit is decided, then read the heads, of runs that exist.

        All as the batch wrote them: it is committed, and `task_ids` tells what to publish. All as before: it is not.
        A backend that still works on the commit after the timeout is terminated.

        Raises:
            Fenced: this coordinator was buried meanwhile: exit.
            CommitUnknown: the old backend still holds the fence, or waits for a standby: ask again.
            psycopg.Error: nothing was read: ask again.
        """
        for _ in range(2):
            try:
                with connection.transaction():
                    connection.execute(
                        "SELECT set_config('lock_timeout', %s, true)", (f"{round(lock_timeout_seconds * 1000)}ms",)
                    )
                    # The same row lock as the commit's: had, the old backend has ended one way or the other.
                    row = connection.execute(self._fence, (me,)).fetchone()
                    if row is None or not row[0]:
                        raise Fenced(f"coordinator {me} was buried while its commit was unknown", "SG002")
                    return dict(connection.execute(self._heads, (list(runs),)).fetchall())
            except psycopg.errors.LockNotAvailable:
                connection.execute(_TERMINATE_COMMIT.encode(), (f"saga:{me}",))
        raise CommitUnknown(f"the lost commit of coordinator {me} still holds its fence", "55P03")

    def task_ids(self, connection: Connection, tokens: Iterable[UUID]) -> Committed:
        """Read the row ids of tasks after a lost reply; those that are done meanwhile are left out.

        Raises:
            psycopg.Error: nothing was read.
        """
        return Committed(dict(connection.execute(self._task_ids, (list(tokens),)).fetchall()))


def _array(numbers: Iterable[int]) -> str:
    """Write an array as Postgres reads it: psycopg would take a Python call for each of its elements."""
    return "{" + ",".join(map(str, numbers)) + "}"
