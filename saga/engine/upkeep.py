"""The thread that looks after what others left: dead coordinators, free shards, lost claims, lost messages (P13-P18).

It takes no turns: it tells the loop when shards may have come, and the loop reads for itself what is its own.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from uuid import UUID

import psycopg
from celery import Celery

from saga.engine.messages import Broker
from saga.engine.publisher import Publisher
from saga.engine.records import SHARDS, TaskMessage
from saga.engine.store.connect import Connection
from saga.engine.store.failures import Fenced, StoreFailure
from saga.engine.store.membership import Membership
from saga.engine.store.reaping import Reaping

log = logging.getLogger("saga.reaper")

#: Seconds between two passes over leases, and between two comparisons with the broker's counts.
PASS_SECONDS = 1.0
COUNT_SECONDS = 5.0
#: Messages that one comparison publishes again at the most.
AGAIN_MAX = 2_000
#: Claims that are found lost in one pass; after a full one the next follows at once.
LOST_AT_ONCE = 500


class Upkeep:
    """One pass a second.

    `release` is how many shards the loop should let go of. `lost` is set when the coordinator must end: it was buried,
    or a pass failed in a way that this code does not know.
    """

    def __init__(
        self,
        app: Celery,
        schema: str,
        me: UUID,
        lease_seconds: float,
        *,
        connect: Callable[[], Connection],
        owned: Callable[[], frozenset[int]],
        publisher: Publisher,
        ring: Callable[[], None],
    ) -> None:
        self.release = 0
        self.lost = threading.Event()
        self._membership = Membership(schema)
        self._reaping = Reaping(schema)
        self._broker = Broker(app, timeout_seconds=COUNT_SECONDS)
        self._me = me
        self._grace_seconds = lease_seconds
        self._connect = connect
        self._owned = owned
        self._publisher = publisher
        self._ring = ring
        self._stop = threading.Event()
        self._wanted = threading.Event()
        self._short: dict[str, int] = {}
        self._overdue_at: datetime | None = None
        self._counted_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="saga-upkeep", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def now(self) -> None:
        """Make the next pass at once: shards may be free."""
        self._wanted.set()

    def stop(self) -> None:
        """End after the pass under way."""
        self._stop.set()
        self._wanted.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._keep_up()
        except BaseException:  # without its upkeep a coordinator is half alive: it must end
            log.critical(
                "the upkeep of coordinator %s failed: it ends, and another takes over", self._me, exc_info=True
            )
            self.lost.set()
            self._ring()
        self._broker.close()

    def _keep_up(self) -> None:
        connection: Connection | None = None
        try:
            while not self._stop.is_set():
                try:
                    connection = connection or self._connect()
                    self._pass(connection)
                except Fenced:
                    self.lost.set()
                    break
                except (psycopg.Error, StoreFailure) as error:
                    log.warning("a pass of the reaper failed (%s)", type(error).__name__)
                    _close(connection)
                    connection = None
                self._wanted.wait(PASS_SECONDS)
                self._wanted.clear()
        finally:
            _close(connection)

    def _pass(self, connection: Connection) -> None:
        for dead in self._membership.expired(connection, grace_seconds=self._grace_seconds):
            if dead != self._me and self._membership.bury(connection, dead, grace_seconds=self._grace_seconds):
                log.warning("coordinator %s is dead: its shards are free", dead)
        mine = len(self._owned())
        fair = math.ceil(SHARDS / max(self._membership.living(connection), 1))
        self.release = max(mine - fair, 0)
        if self._membership.acquire(connection, self._me, fair, mine) or self.release:
            self._ring()
        shards = sorted(self._owned())
        if shards:
            lost = self._reaping.reap_lost(connection, shards, grace_seconds=self._grace_seconds, limit=LOST_AT_ONCE)
            if lost:
                log.warning("%d attempts were lost with their workers", lost)
                self._ring()
            if lost == LOST_AT_ONCE:  # a whole backlog may be, after a crash of Postgres
                self._wanted.set()
        if 0 in shards and time.monotonic() - self._counted_at >= COUNT_SECONDS:
            self._counted_at = time.monotonic()
            self._find_lost_messages(connection)

    def _find_lost_messages(self, connection: Connection) -> None:
        """Compare the broker's count of each queue with the unclaimed tasks (P18); publish again what is missing."""
        overdue_at, overdue = self._reaping.overdue(connection, self._overdue_at)
        unclaimed = self._reaping.unclaimed_by_queue(connection)
        try:
            counts = self._broker.counts(unclaimed)
        except Exception as error:  # whatever the broker's driver raises, it is asked again
            log.warning("the broker's queues could not be counted (%s)", type(error).__name__)
            self._broker.close()
            return
        self._overdue_at = overdue_at
        again: list[TaskMessage] = list(overdue)
        short: dict[str, int] = {}
        for queue, count in counts.items():
            wanted = self._reaping.count_unclaimed(connection, queue, count + AGAIN_MAX)
            if wanted > count:
                short[queue] = wanted - count
                if queue in self._short:  # twice running: it is no message on its way
                    missing = self._reaping.oldest_unclaimed(connection, queue, min(wanted - count, AGAIN_MAX))
                    log.warning("queue %s lost about %d messages: published again", queue, len(missing))
                    again.extend(missing)
                    del short[queue]
        self._short = short
        if again:
            self._publisher.give(list({message.token: message for message in again}.values()))


def _close(connection: Connection | None) -> None:
    if connection is not None:
        with suppress(psycopg.Error):
            connection.close()
