"""Tells Postgres that a step goes on, and how far it is, when the step says so. What a lost claim means is not its.

It beats on the connection of whoever runs the step, and knows no thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import psycopg

from saga.core.current import Attempt
from saga.engine.codec import JsonCodec
from saga.engine.records import Claim
from saga.engine.renewing import LEASE_GRACE_SECONDS
from saga.engine.store.connect import Connection
from saga.engine.store.working import Working

log = logging.getLogger("saga.worker")

#: Bytes that the progress of an attempt may have, as JSON.
PROGRESS_BYTES_MAX = 65_536
#: Seconds between two beats of an attempt: what is told sooner waits for the next one.
BEAT_SECONDS_MIN = 0.25
#: Part of a lease that passes before Postgres is asked again when it did not answer.
_SILENT_SHARE = 0.1


class Heart:
    """The beats of one attempt. `told` is the last progress of this attempt, as JSON text."""

    def __init__(
        self,
        codec: JsonCodec,
        working: Working,
        claim: Claim,
        running: Attempt,
        *,
        connect: Callable[[], Connection],
        disconnect: Callable[[], None],
    ) -> None:
        self.told: str | None = None
        self._codec = codec
        self._working = working
        self._claim = claim
        self._running = running
        self._connect = connect
        self._disconnect = disconnect
        self._sent: str | None = None
        self._not_before = 0.0

    def beat(self, progress: Any) -> None:
        """Prolong the claim and keep the progress, at most every BEAT_SECONDS_MIN; None leaves the progress as it was.

        Without an answer of Postgres the step goes on: the next beat tells again.

        Raises:
            ValueRefused: the progress cannot be stored, or is too large.
        """
        if progress is not None:
            self.told = self._codec.encode_plain(progress, "the progress", PROGRESS_BYTES_MAX)
        now = time.monotonic()
        if self._running.fenced or now < self._not_before:
            return
        claim, told = self._claim, self.told
        news = told if told != self._sent else None
        try:
            mine = self._working.beat(self._connect(), claim, news, grace_seconds=LEASE_GRACE_SECONDS)
        except psycopg.Error as error:
            log.warning("a heartbeat of %s has no answer (%s)", claim.name, type(error).__name__)
            self._disconnect()
            # It may have waited for long: the step shall get on with its work in between.
            self._not_before = time.monotonic() + claim.lease_seconds * _SILENT_SHARE
        except BaseException:  # a time limit struck in mid-statement: nobody can use this connection any more
            self._disconnect()
            raise
        else:
            self._sent, self._not_before = told, now + BEAT_SECONDS_MIN
            if not mine:
                log.warning("attempt %s of %s was fenced while it runs", claim.attempt, claim.name)
                self._running.fenced = True
