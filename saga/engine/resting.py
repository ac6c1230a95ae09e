"""How a coordinator rests: it lies down with every bell held, and wakes by a ring, a timer or a thread of its own.

It knows shards and times, and nothing of runs.
"""

from __future__ import annotations

import heapq
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import psycopg

from saga.engine.store.connect import Connection
from saga.engine.store.sleeping import Doorbell, Rings

#: Seconds between two tries to lie down while a sender is in flight: the first, and the longest.
RESTLESS_SECONDS = (0.005, 0.1)

#: Timers that fall due within so many seconds are known by heart; longer than between two looks ahead.
SOON_SECONDS = 5.0


class Rest:
    """The doorbell of a coordinator's shards (P19), its own timers, and a pipe that its threads ring.

    `held` says that every sender rings, so that whoever looked since then need not look again before `wait`.
    """

    def __init__(self, schema: str, connect: Callable[[], Connection], stopping: threading.Event) -> None:
        self.held = False
        self._schema = schema
        self._connect = connect
        self._stopping = stopping
        self._bell: Doorbell | None = None
        self._connection: Connection | None = None
        self._restless_seconds = RESTLESS_SECONDS[0]
        self._due: list[datetime] = []  #: a heap of when timers of mine fall due
        self._postgres_at = datetime.now(UTC)  #: Postgres time at the last look, and when that was here
        self._looked_at = time.monotonic()
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)

    def ring(self) -> None:
        """Wake the coordinator from a thread or signal handler of its own."""
        with suppress(BlockingIOError, OSError):
            os.write(self._write, b".")

    def lie_down(self, shards: Sequence[int]) -> None:
        """Take every bell, or wait a little: a sender is in flight, maybe in a caller's long transaction.

        Raises:
            psycopg.Error: the connection is gone.
        """
        if self._bell is None:
            self._connection = self._connect()
            self._bell = Doorbell(self._connection, self._schema)
        if self._bell.try_sleep(shards):
            self._restless_seconds = RESTLESS_SECONDS[0]
            self.held = True
            return
        self._stopping.wait(self._restless_seconds)
        self._restless_seconds = min(self._restless_seconds * 1.5, RESTLESS_SECONDS[1])

    def wait(self, seconds: float) -> tuple[Rings, bool]:
        """Wait with the bells held until a ring, the next timer, or the time has passed; say whether a thread rang.

        Raises:
            psycopg.Error: the connection is gone; whoever rang was not heard, so look at everything.
        """
        assert self._bell is not None
        rings = self._bell.wait(max(min(seconds, self.until_timer()), 0.0), descriptors=[self._read])
        if rings.descriptors:
            with suppress(BlockingIOError):
                os.read(self._read, 4096)
        return rings, bool(rings.descriptors)

    def get_up(self) -> None:
        """Give every bell back: under load, senders need not ring.

        Raises:
            psycopg.Error: the connection is gone.
        """
        if self.held and self._bell is not None:
            self._bell.wake()
            self.held = False

    def looked(self, postgres_at: datetime, *, everywhere: bool) -> None:
        """Note Postgres' time at a look; a look at every shard has found all timers that were due."""
        self._postgres_at, self._looked_at = postgres_at, time.monotonic()
        while everywhere and self._due and self._due[0] <= postgres_at:
            heapq.heappop(self._due)

    def expect(self, due_at: Iterable[datetime]) -> None:
        """Know by heart these timers and no others: what a look ahead has found, whoever has set them."""
        self._due = sorted(due_at)

    def remember(self, due_at: Iterable[datetime]) -> None:
        """Remember timers that were set now and fall due before the next look ahead."""
        soon = self._postgres_at + timedelta(seconds=SOON_SECONDS)
        for due in due_at:
            if due < soon:
                heapq.heappush(self._due, due)

    def until_timer(self) -> float:
        """Return the seconds to the next remembered timer; 0 or less: it is due."""
        if not self._due:
            return float("inf")
        now = self._postgres_at + timedelta(seconds=time.monotonic() - self._looked_at)
        return (self._due[0] - now).total_seconds()

    def disconnect(self) -> None:
        """Forget the connection, and the bells with it."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
        self._connection = self._bell = None
        self.held = False

    def close(self) -> None:
        """Let go of everything."""
        self.disconnect()
        os.close(self._read)
        os.close(self._write)
