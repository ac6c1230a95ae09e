"""The connections of a process: SQLAlchemy's pool for clients and transactional steps. It knows no SQL."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from saga.core.errors import ConfigurationError, DatabaseUnreachable, SchemaError
from saga.engine.pauses import pauses
from saga.engine.store.connect import PROBES, Bounded, answered_within, connecting_seconds, seconds_left

Psycopg = psycopg.Connection[Any]
T = TypeVar("T")

#: Seconds in which a new connection must stand; libpq takes 2 for anything less.
CONNECT_SECONDS = 5
#: Seconds for which a client asks the same again after it got no answer.
AGAIN_SECONDS = 10.0
#: Seconds between two such tries: the first, and the longest.
RETRY_SECONDS = (0.05, 1.0)


class Unanswered(DatabaseUnreachable):
    """Raised when something was asked of Postgres and nobody knows whether it was executed."""


class Database:
    """Where the tables are. One engine per process and isolation; a forked child makes its own."""

    def __init__(self, url: str | None, schema: str, *, pooler: bool = False) -> None:
        self._url = url
        self._pooler = pooler  #: a pooler in transaction mode stands between: no prepared statements
        self.schema = schema
        self._engines: dict[tuple[int, bool], Engine] = {}
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The database's URL as text, password included.

        Raises:
            ConfigurationError: none is set, or it is not one of Postgres.
        """
        if not self._url:
            raise ConfigurationError(
                "no database is set: pass install(app, database='postgresql://…'), "
                "or set saga_database_url in the app's configuration (CELERY_SAGA_DATABASE_URL under Django)"
            )
        try:
            url = make_url(self._url)
        except ArgumentError:
            raise ConfigurationError(
                "saga_database_url is not a URL: expected postgresql://user:password@host/name"
            ) from None
        if url.get_backend_name() != "postgresql":
            raise ConfigurationError(f"saga_database_url is one of {url.get_backend_name()}; expected postgresql://…")
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)

    def engine(self, *, autocommit: bool) -> Engine:
        """Return this process's engine; `autocommit` for single statements, else for transactions of a caller's own."""
        key = (os.getpid(), autocommit)
        with self._lock:
            engine = self._engines.get(key)
            if engine is None:
                engine = self._engines[key] = create_engine(
                    self.url,
                    pool_size=5,
                    max_overflow=5,
                    pool_pre_ping=True,
                    isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
                    connect_args={
                        "connect_timeout": CONNECT_SECONDS,
                        "application_name": "saga-client",
                        **PROBES,
                        **({"prepare_threshold": None} if self._pooler else {}),
                    },
                )
                if autocommit:  # a user's own statements in a transactional step may take as long as their step
                    event.listen(engine, "do_connect", _connect_bounded)
            return engine

    def dispose(self) -> None:
        """Close what is open and lent to nobody; a later call opens it again."""
        with self._lock:
            engines = list(self._engines.values())
            self._engines.clear()
        for engine in engines:
            engine.dispose()

    @contextmanager
    def connection(self) -> Iterator[Psycopg]:
        """Lend a psycopg connection in autocommit.

        Raises:
            DatabaseUnreachable: the message names host and port, never the password.
            SchemaError: the tables are not there.
            psycopg.OperationalError: it broke in the middle of what was asked.
        """
        try:
            pooled = self.engine(autocommit=True).connect()
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            reason = _first_line(getattr(error, "orig", None) or error)
            raise DatabaseUnreachable(f"cannot reach the database {self._shown}: {reason}") from error
        with pooled:
            driver = pooled.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            try:
                yield driver
            except (psycopg.OperationalError, psycopg.InterfaceError):
                pooled.invalidate()
                raise
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
                raise SchemaError(
                    f"the tables of schema {self.schema!r} are not there: run `celery -A <your app> saga upgrade` "
                    "on this database, or set saga_schema to where they are"
                ) from error

    def ask(self, what: Callable[[Psycopg], T]) -> T:
        """Ask Postgres, and the same again on a new connection where it gave no answer, for up to AGAIN_SECONDS.

        So `what` may be executed more than once.

        Raises:
            DatabaseUnreachable: it cannot be reached, and nothing was asked.
            Unanswered: there was no answer.
            SchemaError: the tables are not there.
        """
        left = again_until = math.inf
        unanswered: Unanswered | None = None
        waits = pauses(*RETRY_SECONDS)
        while True:
            pause = next(waits)
            try:
                with answered_within(left), self.connection() as connection:
                    return what(connection)
            except DatabaseUnreachable as error:
                if unanswered is None:
                    raise
                unanswered, cause = Unanswered(str(error)), error.__cause__
            except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                if unanswered is None:
                    again_until = time.monotonic() + min(AGAIN_SECONDS, seconds_left())
                unanswered = Unanswered(f"no answer from the database {self._shown}: {_first_line(error)}")
                cause = error
            left = again_until - time.monotonic() - pause
            if left <= 0:
                raise unanswered from cause
            time.sleep(pause)

    @property
    def _shown(self) -> str:
        return make_url(self.url).render_as_string(hide_password=True)


def _connect_bounded(_dialect: Any, _record: Any, arguments: Any, options: Any) -> Psycopg:
    return Bounded.connect(*arguments, **{**options, "connect_timeout": connecting_seconds(CONNECT_SECONDS)})


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
