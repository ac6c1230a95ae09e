"""The thread that keeps a coordinator's lease alive (P12), as long as its turn loop moves. It takes no turns."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import psycopg

from saga.engine.store.connect import Connection
from saga.engine.store.membership import Membership

log = logging.getLogger("saga.coordinator")


class Beat:
    """Beats at a quarter of the lease. `lost` is set when the coordinator was buried: it must exit."""

    def __init__(
        self,
        membership: Membership,
        me: UUID,
        lease_seconds: float,
        *,
        connect: Callable[[], Connection],
        published: Callable[[], int],
        moved: Callable[[], int],
    ) -> None:
        self.lost = threading.Event()
        self._membership = membership
        self._me = me
        self._lease_seconds = lease_seconds
        self._connect = connect
        self._published = published
        self._moved = moved
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saga-beat", daemon=True)

    def start(self) -> None:
        """Begin to beat."""
        self._thread.start()

    def stop(self) -> None:
        """Beat no more."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        connection: Connection | None = None
        seen = -1
        while not self._stop.wait(self._lease_seconds / 4):
            moved = self._moved()
            if moved == seen:
                continue  # the loop hangs: whoever can move shall have the shards
            try:
                connection = connection or self._connect()
                if not self._membership.beat(connection, self._me, self._lease_seconds, self._published()):
                    self.lost.set()
                    break
                seen = moved
            except psycopg.Error as error:
                log.warning("the lease could not be prolonged (%s)", type(error).__name__)
                if connection is not None:
                    with suppress(psycopg.Error):
                        connection.close()
                connection = None
        if connection is not None:
            connection.close()
