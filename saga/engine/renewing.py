"""Keeps the claim of a long step alive, from a thread and a connection of its own. What a loss means is not its."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

import psycopg

from saga.core.attempts import GRACE_SECONDS
from saga.core.current import Attempt
from saga.engine.installation import Installation
from saga.engine.records import Claim
from saga.engine.store.connect import Connection, connect

log = logging.getLogger("saga.worker")

#: The longest lease of a claim: what a step of a minute needs, so that the default costs no thread. Longer steps renew.
LEASE_SECONDS_MAX = 70.0
#: Seconds after a hard limit in which a worker may still record what it knows.
LEASE_GRACE_SECONDS = 5.0


def lease_seconds(limit_seconds: float | None, heartbeat_seconds: float | None = None) -> float:
    """Return the lease of an attempt: its hard limit and a grace where that is short, else what a renewer keeps up.

    One that beats has its heartbeat and a grace: it is lost where it misses one.
    """
    if heartbeat_seconds is not None:
        lease = heartbeat_seconds + LEASE_GRACE_SECONDS
        return lease if limit_seconds is None else min(lease, limit_seconds + LEASE_GRACE_SECONDS)
    if limit_seconds is None:
        return LEASE_SECONDS_MAX
    return min(limit_seconds + LEASE_GRACE_SECONDS, LEASE_SECONDS_MAX)


class Renewer:
    """Renews a claim while the block runs, if its step may outlast the lease; sets `current.fenced` when it is lost.

    A step with a heartbeat keeps its claim itself.
    """

    def __init__(self, installation: Installation, claim: Claim, running: Attempt) -> None:
        self._installation = installation
        self._claim = claim
        self._running = running
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        limit = self._claim.limit_seconds
        if not self._claim.beats and (limit is None or limit > self._claim.lease_seconds):
            self._thread = threading.Thread(target=self._keep, name="saga-renewer", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=GRACE_SECONDS)

    def _keep(self) -> None:
        connection: Connection | None = None
        pause = self._claim.lease_seconds / 3
        while not self._stop.wait(pause):
            try:
                if connection is None:
                    url = self._installation.database.url
                    session = not self._installation.app.conf.saga_pgbouncer
                    connection = connect(
                        url, application_name="saga-renewer", statement_timeout_seconds=pause, session=session
                    )
                renewed = self._installation.working.renew(connection, self._claim, grace_seconds=LEASE_GRACE_SECONDS)
            except psycopg.Error as error:
                log.warning("a claim of %s could not be renewed (%s)", self._claim.name, type(error).__name__)
                if connection is not None:
                    with suppress(psycopg.Error):
                        connection.close()
                connection = None
                continue
            if not renewed:
                log.warning("attempt %s of %s was fenced while it runs", self._claim.attempt, self._claim.name)
                self._running.fenced = True
                break
        if connection is not None:
            connection.close()
