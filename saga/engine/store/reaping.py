"""What the dead left: claims whose lease ran out (P17), messages that the broker lost (P18). It decides no retry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from saga.engine.records import TaskMessage
from saga.engine.store.connect import Connection
from saga.engine.store.membership import UP
from saga.engine.store.names import statement

#: Seconds for which a task may be unclaimed before it counts against the broker's own count.
SETTLING_SECONDS = 10

#: Age in seconds at which an unclaimed task is published again whatever the broker counts; then at each doubling.
OVERDUE_SECONDS = 300

# Exactly once under any number of reapers: who deletes the row tells of it, and SKIP LOCKED passes over what another
# reaper, or the worker's own outcome, holds. MATERIALIZED: a LIMIT with FOR UPDATE inside a join may lock more than
# it says.
_REAP = """
WITH lost AS MATERIALIZED (
    SELECT token FROM {s}.task
    WHERE shard = ANY (%(shards)s) AND lease_until < clock_timestamp() AND {up}
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), done AS (
    DELETE FROM {s}.task t USING lost WHERE t.token = lost.token
    RETURNING t.run, t.shard, t.token, t.attempt, t.claimed_by, t.progress
), told AS (
    INSERT INTO {s}.inbox (shard, lane, run, kind, token, attempt, claimant, payload)
    SELECT shard, 0, run, 'StepLost', token, attempt, claimed_by, '{"progress":' || to_json(progress) || '}' FROM done
    RETURNING shard
)
SELECT {bell} FROM told
"""

_LOST = """
SELECT t.token, t.attempt, t.run, r.saga || '/' || r.key, t.name, t.queue, t.claimed_by, t.claimed_at, t.lease_until
FROM {s}.task t JOIN {s}.run r ON r.id = t.run
WHERE t.lease_until < clock_timestamp() ORDER BY t.lease_until LIMIT %(limit)s
"""

_UNCLAIMED = """
SELECT queue, count(*) FROM {s}.task
WHERE claimed_by IS NULL AND created_at < clock_timestamp() - make_interval(secs => {settling})
GROUP BY queue
"""

_COUNT = """
SELECT count(*) FROM (
    SELECT 1 FROM {s}.task
    WHERE queue = %s AND claimed_by IS NULL
      AND created_at < clock_timestamp() - make_interval(secs => {settling})
    LIMIT %s
) x
"""

_MESSAGE = """
SELECT t.id, t.token, t.attempt, t.run, r.saga || '/' || r.key, t.name, t.queue, t.limit_seconds
FROM {s}.task t JOIN {s}.run r ON r.id = t.run
"""

_OLDEST = """{message}
WHERE t.queue = %s AND t.claimed_by IS NULL
  AND t.created_at < clock_timestamp() - make_interval(secs => {settling})
ORDER BY t.id LIMIT %s
"""

# An age has crossed 300 s * 2^n since the last pass when the whole part of log2(age / 300) differs between then and
# now; half of it stands for "younger than 300 s", whose logarithm rounds down to -1.
_OVERDUE = """{message},
LATERAL (SELECT
    GREATEST(extract(epoch FROM %(now)s - t.created_at) / {overdue}, 0.5) AS age,
    GREATEST(extract(epoch FROM %(last_pass)s - t.created_at) / {overdue}, 0.5) AS age_then
) a
WHERE t.claimed_by IS NULL AND floor(log(2, a.age)) > floor(log(2, a.age_then))
ORDER BY t.id LIMIT %(limit)s
"""

_NOW = "SELECT clock_timestamp()"


@dataclass(frozen=True, slots=True)
class LostClaim:
    """A claimed attempt whose lease has run out."""

    token: UUID
    attempt: int
    run: UUID
    run_label: str
    name: str
    queue: str
    claimed_by: UUID
    claimed_at: datetime
    lease_until: datetime


class Reaping:
    """P17 and P18, bound to a schema."""

    def __init__(self, schema: str) -> None:
        settling = str(SETTLING_SECONDS)
        self._reap = statement(schema, _REAP, up=UP)
        self._lost = statement(schema, _LOST)
        self._unclaimed = statement(schema, _UNCLAIMED, settling=settling)
        self._count = statement(schema, _COUNT, settling=settling)
        self._oldest = statement(schema, _OLDEST, message=_MESSAGE, settling=settling)
        self._overdue = statement(schema, _OVERDUE, message=_MESSAGE, overdue=str(OVERDUE_SECONDS))

    def reap_lost(
        self, connection: Connection, shards: Sequence[int], *, grace_seconds: float = 10.0, limit: int = 100
    ) -> int:
        """P17: turn claims whose lease ran out into arrivals `StepLost`; return how many.

        None until Postgres and this connection are older than the grace: after an outage every lease has run out.

        Raises:
            psycopg.Error: nobody knows; reap again, it tells of nothing twice.
        """
        values = {"shards": list(shards), "grace": grace_seconds, "limit": limit}
        return connection.execute(self._reap, values).rowcount

    def lost_preview(self, connection: Connection, *, limit: int = 1000) -> list[LostClaim]:
        """Read the claims that a pass would reap, of all shards, without touching them.

        Raises:
            psycopg.Error: nothing was read.
        """
        return [LostClaim(*row) for row in connection.execute(self._lost, {"limit": limit})]

    def unclaimed_by_queue(self, connection: Connection) -> dict[str, int]:
        """P18: count, for each queue, the tasks that nobody has claimed for ten seconds.

        Raises:
            psycopg.Error: nothing was read.
        """
        return dict(connection.execute(self._unclaimed).fetchall())

    def count_unclaimed(self, connection: Connection, queue: str, limit: int) -> int:
        """P18: the same of one queue, counting no further than the limit.

        Raises:
            psycopg.Error: nothing was read.
        """
        row = connection.execute(self._count, (queue, limit)).fetchone()
        return 0 if row is None else int(row[0])

    def oldest_unclaimed(self, connection: Connection, queue: str, limit: int) -> list[TaskMessage]:
        """P18: read a queue's oldest tasks that nobody has claimed for ten seconds, to publish them again.

        Raises:
            psycopg.Error: nothing was read.
        """
        return [TaskMessage(*row) for row in connection.execute(self._oldest, (queue, limit))]

    def overdue(
        self, connection: Connection, last_pass: datetime | None, *, limit: int = 2000
    ) -> tuple[datetime, list[TaskMessage]]:
        """P18: read the unclaimed tasks whose age has crossed 5 minutes * 2^n since the last pass, and the time now.

        The first pass (None) reads nothing, it only tells the time to pass next.

        Raises:
            psycopg.Error: nothing was read.
        """
        now: datetime = connection.execute(_NOW).fetchall()[0][0]
        if last_pass is None:
            return now, []
        values = {"now": now, "last_pass": last_pass, "limit": limit}
        return now, [TaskMessage(*row) for row in connection.execute(self._overdue, values)]
