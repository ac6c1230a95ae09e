"""A process's connections to Postgres and Redis, for the hand-made approaches. It must not know their tables.

What is marked: opening it again, and asking again, when the database was away.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import psycopg
import redis

#: Seconds for which a statement waits for a database that is away, and between two tries.
AWAY_SECONDS, AGAIN_SECONDS = 30.0, 0.2


def open_redis() -> redis.Redis:
    """Return a client of the Redis that the environment names."""
    return redis.Redis.from_url(os.environ["CELERY_BROKER_URL"], socket_timeout=None, decode_responses=True)


class Database:
    """One connection in autocommit, opened when it is needed; threads take turns on it."""

    def __init__(self) -> None:
        self._url = os.environ["SAGA_DATABASE_URL"]
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._lock = threading.Lock()

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows.

        A statement whose answer was lost is run again: it must do no harm the second time.

        Raises:
            psycopg.Error: the statement is refused, or the database was away for too long.
        """
        with self._lock:
            # failure handling: begin
            until = time.monotonic() + AWAY_SECONDS
            while True:
                try:
                    return self._run(statement, values)
                except psycopg.OperationalError:
                    self._drop()
                    if time.monotonic() > until:
                        raise
                    time.sleep(AGAIN_SECONDS)
            # failure handling: end

    def _run(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=2)
        cursor = self._connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []

    # failure handling: begin
    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # failure handling: end
