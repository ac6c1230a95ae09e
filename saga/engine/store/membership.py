"""Who coordinates, and which shards are whose (P12-P16). It knows leases and owners, nothing of runs.

Every connection of a coordinator carries the application name `saga:<its id>`, so that the others can end its backends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

import psycopg

from saga.core.events import NOBODY
from saga.engine.records import TaskMessage
from saga.engine.store.connect import Connection
from saga.engine.store.failures import Fenced, watch_replication
from saga.engine.store.names import statement

#: Attempts that are taken for claimed in one statement after a crash of Postgres.
FORGOTTEN_AT_ONCE = 10_000

# After an outage longer than a lease every lease has run out at the first query, and healthy work would be declared
# dead. The postmaster's age covers a restart; the connection's own age covers a crash of one backend, which the
# postmaster outlives, and a fail-over to a standby that has been up for long.
UP = """
(clock_timestamp() - pg_postmaster_start_time() > make_interval(secs => %(grace)s)
 AND clock_timestamp() - (SELECT backend_start FROM pg_stat_get_activity(pg_backend_pid()))
     > make_interval(secs => %(grace)s))
"""

# Nothing of mine has an id at or below the sequence's value of now, so an heir need not publish older tasks again.
_REGISTER = """
INSERT INTO {s}.coordinator (id, build, lease_until, published)
SELECT %(me)s, %(build)s, clock_timestamp() + make_interval(secs => %(lease)s),
       CASE WHEN is_called THEN last_value ELSE 0 END
FROM {s}.task_id_seq
ON CONFLICT (id) DO NOTHING
"""

# Asynchronous: a beat that a crash forgets only shortens the lease. GREATEST: a late beat must not take a mark back.
_BEAT = """
UPDATE {s}.coordinator
SET lease_until = clock_timestamp() + make_interval(secs => %(lease)s), published = GREATEST(published, %(published)s)
WHERE id = %(me)s AND dead_at IS NULL
RETURNING set_config('synchronous_commit', 'off', true)
"""

_EXPIRED = "SELECT id FROM {s}.coordinator WHERE dead_at IS NULL AND lease_until < clock_timestamp() AND {up}"

_BURY = """
UPDATE {s}.coordinator SET dead_at = clock_timestamp()
WHERE id = %(dead)s AND dead_at IS NULL AND lease_until < clock_timestamp() AND {up}
"""

# A backend in SyncRep has committed and only waits for its standby: terminating it would hide that.
_TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE application_name = %s AND pid <> pg_backend_pid() AND wait_event IS DISTINCT FROM 'SyncRep'
"""

_FENCE = "SELECT 1 FROM {s}.coordinator WHERE id = %s AND dead_at IS NULL FOR NO KEY UPDATE"

# MATERIALIZED: a LIMIT with FOR UPDATE inside a join may be run again for each outer row, and lock more than it says.
# SKIP LOCKED: two that acquire at once share what is free instead of waiting for each other.
# LEAST leaves nulls out: an heir that died before it had published again hands the older mark on.
_ACQUIRE = """
WITH free AS MATERIALIZED (
    SELECT s.id, c.published FROM {s}.shard s LEFT JOIN {s}.coordinator c ON c.id = s.owner
    WHERE s.owner IS NULL OR c.dead_at IS NOT NULL
    ORDER BY s.id LIMIT %(most)s FOR UPDATE OF s SKIP LOCKED
)
UPDATE {s}.shard s
SET owner = %(me)s, epoch = s.epoch + 1, republish_from = LEAST(s.republish_from, free.published)
FROM free WHERE s.id = free.id
RETURNING s.id
"""

_OWNED = "SELECT id, republish_from, suspect, strikes FROM {s}.shard WHERE owner = %s ORDER BY id"

_MESSAGES_AFTER = """
SELECT t.id, t.token, t.attempt, t.run, r.saga || '/' || r.key, t.name, t.queue, t.limit_seconds
FROM {s}.task t JOIN {s}.run r ON r.id = t.run
WHERE t.shard = %s AND t.id > %s AND t.claimed_by IS NULL ORDER BY t.id LIMIT %s
"""

_REPUBLISHED = "UPDATE {s}.shard SET republish_from = NULL WHERE id = %s AND owner = %s"

# What is still to be published again stays mine until it is.
_RELEASE = """
UPDATE {s}.shard SET owner = NULL, suspect = NULL, strikes = 0
WHERE id = ANY (%(shards)s) AND owner = %(me)s AND republish_from IS NULL
RETURNING id
"""

_RESIGN = """
UPDATE {s}.coordinator SET dead_at = clock_timestamp(), published = GREATEST(published, %(published)s)
WHERE id = %(me)s AND dead_at IS NULL
"""

# A shard that is to be published again keeps its dead owner: the heir finds it by dead_at and adopts the mark.
_RESIGN_SHARDS = """
UPDATE {s}.shard SET owner = NULL, suspect = NULL, strikes = 0 WHERE owner = %(me)s AND republish_from IS NULL
"""

_RING_ALL = "SELECT pg_notify('{channel}', 'members')"

_IS_UNBROKEN = "SELECT EXISTS (SELECT FROM {s}.unbroken)"

# A crash of Postgres empties the unlogged table, and may forget claims, which are not flushed. So whatever is unclaimed
# then may be running somewhere: it is taken for claimed, and whoever has it tells its outcome as ever (P4), or it is
# lost when its lease ends. In parts, because it may be a whole backlog; none of it can be claimed before the row is
# back. Two that do it at once wait for each other, not SKIP LOCKED: what one passed over the other might roll back.
_FORGOTTEN = """
UPDATE {s}.task
SET claimed_by = '{nobody}', claimed_at = clock_timestamp(),
    lease_until = clock_timestamp() + make_interval(secs => lease_seconds)
WHERE claimed_by IS NULL AND token IN (
    SELECT token FROM {s}.task WHERE claimed_by IS NULL AND NOT EXISTS (SELECT FROM {s}.unbroken) LIMIT %(limit)s)
"""

# Beats are not flushed either: the last one may have been forgotten, and the next one is due when it would have ended.
_BEATEN = """
UPDATE {s}.task SET lease_until = GREATEST(lease_until, clock_timestamp() + make_interval(secs => lease_seconds))
WHERE beats AND claimed_by IS NOT NULL AND NOT EXISTS (SELECT FROM {s}.unbroken)
"""

_UNBROKEN = "INSERT INTO {s}.unbroken DEFAULT VALUES ON CONFLICT DO NOTHING"

_LIVING = "SELECT count(*) FROM {s}.coordinator WHERE dead_at IS NULL AND lease_until > clock_timestamp()"

# One run at a time is tried: what was noted of another shard's is over.
_SUSPECT = """
UPDATE {s}.shard SET suspect = CASE WHEN id = %(shard)s THEN %(run)s::uuid END,
    strikes = CASE WHEN id = %(shard)s THEN %(strikes)s ELSE LEAST(strikes, 2) END
WHERE owner = %(me)s AND (id = %(shard)s OR suspect IS NOT NULL)
RETURNING id
"""

_STRIKES = "UPDATE {s}.shard SET suspect = NULL, strikes = %(strikes)s WHERE id = ANY (%(shards)s) AND owner = %(me)s"


@dataclass(frozen=True, slots=True)
class OwnedShard:
    """A shard of mine. `republish_from` set: publish its tasks behind that id again. `suspect`: a run that may kill."""

    id: int
    republish_from: int | None
    suspect: UUID | None
    strikes: int


class Membership:
    """P12-P16, bound to a schema."""

    def __init__(self, schema: str) -> None:
        self._register = statement(schema, _REGISTER)
        self._beat = statement(schema, _BEAT)
        self._expired = statement(schema, _EXPIRED, up=UP)
        self._bury = statement(schema, _BURY, up=UP)
        self._terminate = statement(schema, _TERMINATE)
        self._fence = statement(schema, _FENCE)
        self._acquire = statement(schema, _ACQUIRE)
        self._owned = statement(schema, _OWNED)
        self._messages_after = statement(schema, _MESSAGES_AFTER)
        self._republished = statement(schema, _REPUBLISHED)
        self._release = statement(schema, _RELEASE)
        self._resign = statement(schema, _RESIGN)
        self._resign_shards = statement(schema, _RESIGN_SHARDS)
        self._ring_all = statement(schema, _RING_ALL)
        self._is_unbroken = statement(schema, _IS_UNBROKEN)
        self._forgotten = statement(schema, _FORGOTTEN, nobody=str(NOBODY))
        self._beaten = statement(schema, _BEATEN)
        self._unbroken = statement(schema, _UNBROKEN)
        self._living = statement(schema, _LIVING)
        self._suspect = statement(schema, _SUSPECT)
        self._strikes = statement(schema, _STRIKES)

    def register(self, connection: Connection, me: UUID, build: str, lease_seconds: float) -> None:
        """Enter this start of a coordinator; entering it twice is harmless.

        Raises:
            CommitUnknown: it is maybe not on the synchronous standby; register again.
            psycopg.Error: nobody knows; register again.
        """
        with watch_replication(connection):
            connection.execute(self._register, {"me": me, "build": build, "lease": lease_seconds})

    def beat(self, connection: Connection, me: UUID, lease_seconds: float, published: int) -> bool:
        """P12: prolong the lease and say up to which task id all is in the broker; False: buried, exit.

        Raises:
            psycopg.Error: nobody knows; beat again.
        """
        values = {"me": me, "lease": lease_seconds, "published": published}
        return connection.execute(self._beat, values).rowcount == 1

    def expired(self, connection: Connection, *, grace_seconds: float = 10.0) -> list[UUID]:
        """Return the coordinators that may be buried; none until Postgres and this connection are older than the grace.

        Raises:
            psycopg.Error: nothing was read.
        """
        return [row[0] for row in connection.execute(self._expired, {"grace": grace_seconds})]

    def bury(
        self, connection: Connection, dead: UUID, *, grace_seconds: float = 10.0, lock_timeout_seconds: float = 2.0
    ) -> bool:
        """P13: mark a coordinator dead whose lease has run out, and end its backends; False: alive, or done before.

        Raises:
            psycopg.Error: nobody knows; look again.
        """
        name = (f"saga:{dead}",)
        for _ in range(3):
            try:
                with connection.transaction():
                    connection.execute(
                        "SELECT set_config('lock_timeout', %s, true)", (f"{round(lock_timeout_seconds * 1000)}ms",)
                    )
                    buried = connection.execute(self._bury, {"dead": dead, "grace": grace_seconds}).rowcount == 1
            except psycopg.errors.LockNotAvailable:
                # Its last commit hangs with the fence in hand.
                connection.execute(self._terminate, name)
            else:
                if buried:
                    # Its row locks and its doorbell are free at once, not when TCP finds out.
                    connection.execute(self._terminate, name)
                return buried
        return False

    def acquire(self, connection: Connection, me: UUID, fair: int, mine: int) -> list[int]:
        """P14: take what is free or a dead one's, up to the fair share; return what was taken now.

        After an error nobody knows what was: only `owned` says.

        Raises:
            Fenced: this coordinator is buried: exit.
            CommitUnknown: it is maybe not on the synchronous standby; `owned` says.
            psycopg.Error: nobody knows; `owned` says.
        """
        if fair <= mine:
            return []
        with watch_replication(connection), connection.transaction():
            # The fence first: one that is being buried must not gather shards that no heir would look for.
            if connection.execute(self._fence, (me,)).fetchone() is None:
                raise Fenced(f"coordinator {me} is buried or unknown", "SG002")
            return [row[0] for row in connection.execute(self._acquire, {"me": me, "most": fair - mine})]

    def owned(self, connection: Connection, me: UUID) -> dict[int, OwnedShard]:
        """P15: read what is mine: the only truth of it.

        Raises:
            psycopg.Error: nothing was read.
        """
        return {row[0]: OwnedShard(*row) for row in connection.execute(self._owned, (me,))}

    def messages_after(
        self, connection: Connection, shard: int, after_id: int, *, limit: int | None = None
    ) -> list[TaskMessage]:
        """P15: read the shard's unclaimed tasks behind an id, oldest first: what may never have been published.

        Raises:
            psycopg.Error: nothing was read.
        """
        return [TaskMessage(*row) for row in connection.execute(self._messages_after, (shard, after_id, limit))]

    def republished(self, connection: Connection, me: UUID, shard: int) -> bool:
        """P15: note that the shard's tasks are all in the broker; False: it is not mine any more.

        Raises:
            psycopg.Error: nobody knows; publishing them again is harmless.
        """
        return connection.execute(self._republished, (shard, me)).rowcount == 1

    def release(self, connection: Connection, me: UUID, shards: Iterable[int]) -> list[int]:
        """P16: let shards go between batches, once all is published; return those that went, and wake the sleepers.

        Raises:
            psycopg.Error: nobody knows; `owned` says.
        """
        released = [row[0] for row in connection.execute(self._release, {"me": me, "shards": list(shards)})]
        if released:
            connection.execute(self._ring_all)
        return released

    def resign(self, connection: Connection, me: UUID, *, published: int = 0) -> bool:
        """Bury oneself and free every shard at once (SIGTERM); False: somebody else had done it.

        `published` is the last mark; an heir publishes what lies behind it again. Call it when no turn is under way.

        Raises:
            psycopg.Error: nobody knows; resign again, or let the lease run out.
        """
        with connection.transaction():
            resigned = connection.execute(self._resign, {"me": me, "published": published}).rowcount == 1
            if resigned:
                connection.execute(self._resign_shards, {"me": me})
            connection.execute(self._ring_all)
        return resigned

    def remember(self, connection: Connection, moved: Callable[[], None] = lambda: None) -> int:
        """After a crash of Postgres, take what nobody has claimed for claimed; return how many attempts that were.

        Until then nothing can be claimed, and no turn can be committed. `moved` is called after each part.

        Raises:
            CommitUnknown: it is maybe not on the synchronous standby; call it again.
            psycopg.Error: nobody knows; call it again.
        """
        row = connection.execute(self._is_unbroken).fetchone()
        if row is not None and row[0]:
            return 0
        taken = 0
        with watch_replication(connection):
            connection.execute(self._beaten)
            while True:
                part = connection.execute(self._forgotten, {"limit": FORGOTTEN_AT_ONCE}).rowcount
                taken += part
                moved()
                if part < FORGOTTEN_AT_ONCE:
                    break
            connection.execute(self._unbroken)
        return taken

    def living(self, connection: Connection) -> int:
        """Count the coordinators with a living lease.

        Raises:
            psycopg.Error: nothing was read.
        """
        row = connection.execute(self._living).fetchone()
        return 0 if row is None else int(row[0])

    def set_suspect(self, connection: Connection, me: UUID, shard: int, run: UUID, strikes: int) -> bool:
        """Write down, durably, which run is tried alone next, before it is tried; False: not my shard.

        My other shards have no suspect any more.

        Raises:
            psycopg.Error: nobody knows; do not try the run.
        """
        values = {"me": me, "shard": shard, "run": run, "strikes": strikes}
        return (shard,) in connection.execute(self._suspect, values).fetchall()

    def set_strikes(self, connection: Connection, me: UUID, shards: Sequence[int], strikes: int) -> None:
        """Write down how many owners in a row died on these shards of mine, with no run suspected.

        Raises:
            psycopg.Error: nobody knows.
        """
        connection.execute(self._strikes, {"me": me, "shards": list(shards), "strikes": strikes})
