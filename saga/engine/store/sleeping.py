"""How a coordinator sleeps and misses no ring (P19): an eventcount of advisory locks. It never looks at the inbox."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import Notify

from saga.engine.store.connect import Connection
from saga.engine.store.names import channel_of, quoted, statement

# All or none: the caller gives back what it got when one shard has a sender in flight.
_LOCK = "SELECT bool_and(pg_try_advisory_lock({k}, shard)) FROM unnest(%s::integer[]) AS mine(shard)"

_UNLOCK = "SELECT pg_advisory_unlock_all()"

# A coordinator that gave its doorbell up because nobody answered does not know whether that session lives on: it would
# hold the bells, and nobody could lie down. Nothing else locks exclusively in this name but a commit of this thread.
_END_EARLIER = """
SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.mode = 'ExclusiveLock' AND a.pid <> pg_backend_pid()
  AND a.application_name = current_setting('application_name') AND a.datname = current_database()
  AND a.wait_event IS DISTINCT FROM 'SyncRep'
"""

#: What `Membership.release` and `resign` ring with: look for free shards.
MEMBERS = "members"


@dataclass(frozen=True, slots=True)
class Rings:
    """Why a sleep ended early: shards that something arrived for, free shards to look for, or another descriptor."""

    shards: frozenset[int] = frozenset()
    members: bool = False
    descriptors: frozenset[int] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.shards or self.members or self.descriptors)


class Doorbell:
    """P19 over a session connection of its own, in autocommit, used by one thread.

    Go to sleep by `try_sleep`, look at the inbox once, and only if it is empty `wait`; always `wake` afterwards. A
    sender holds each shard's lock shared until it has committed, so `try_sleep` fails while one is in flight; and once
    it has succeeded, every later sender fails to get its lock and rings.
    """

    def __init__(self, connection: Connection, schema: str) -> None:
        """Listen on the connection, and end the session of an earlier doorbell of the same coordinator.

        Raises:
            psycopg.Error: the connection is gone.
        """
        quoted(schema)
        connection.execute(_END_EARLIER)
        self._connection = connection
        self._lock = statement(schema, _LOCK)
        self._rung: list[str] = []
        connection.add_notify_handler(self._ring)
        connection.execute(f'LISTEN "{channel_of(schema)}"'.encode())

    def _ring(self, notify: Notify) -> None:
        self._rung.append(notify.payload)

    def try_sleep(self, shards: Sequence[int]) -> bool:
        """Take the shards' bells; False: a sender is in flight, none is held, look at the inbox and try again soon.

        Raises:
            psycopg.Error: the connection is gone; so are its bells.
        """
        row = self._connection.execute(self._lock, (list(shards),)).fetchone()
        if row is not None and row[0] is not False:
            return True
        self._connection.execute(_UNLOCK)
        return False

    def wait(self, seconds: float, *, descriptors: Sequence[int] = ()) -> Rings:
        """Wait for a ring, for one of the descriptors to become readable, or for the time to pass.

        Raises:
            psycopg.OperationalError: the connection is gone; whoever rang was not heard, so scan.
        """
        connection = self._connection
        deadline = time.monotonic() + seconds
        poll = select.poll()
        for descriptor in (connection.fileno(), *descriptors):
            poll.register(descriptor, select.POLLIN)
        readable: set[int] = set()
        while not self._rung and not readable:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            ready = {descriptor for descriptor, _ in poll.poll(left * 1000)}
            if connection.fileno() in ready:
                # What comes in without a question is a notification, or the end of the connection.
                connection.pgconn.consume_input()
                while (notify := connection.pgconn.notifies()) is not None:
                    self._rung.append(notify.extra.decode())
            readable = ready & set(descriptors)
        rung, self._rung = self._rung, []
        return Rings(
            shards=frozenset(int(payload) for payload in rung if payload.isdigit()),
            members=MEMBERS in rung,
            descriptors=frozenset(readable),
        )

    def wake(self) -> None:
        """Give every bell back.

        Raises:
            psycopg.Error: the connection is gone; so are its bells.
        """
        self._connection.execute(_UNLOCK)
