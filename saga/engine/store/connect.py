"""How a connection to Postgres is opened, and with which time limits. It knows no table."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar, cast

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from saga.core.errors import ConfigurationError

T = TypeVar("T")

#: The connections of the engine: psycopg 3, autocommit, rows as tuples.
Connection: TypeAlias = psycopg.Connection[TupleRow]

#: Seconds that an answer of Postgres may take: longer than the time limits that Postgres itself keeps for a statement.
ANSWER_SECONDS = 40.0

#: The kernel's probes, which find a peer that has vanished.
PROBES = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
_SERVER_PROBES = {
    "tcp_keepalives_idle": 5,
    "tcp_keepalives_interval": 2,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


#: When whoever asks in this thread gives up, by the monotonic clock.
_give_up_at: ContextVar[float] = ContextVar("give_up_at", default=math.inf)


@contextmanager
def answered_within(seconds: float) -> Iterator[None]:
    """Let the connections that are used in the block wait for answers for so many seconds altogether, not longer."""
    reset = _give_up_at.set(min(_give_up_at.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _give_up_at.reset(reset)


def seconds_left() -> float:
    """Return for how long this thread may wait for an answer; without `answered_within` for ever."""
    return _give_up_at.get() - time.monotonic()


def connecting_seconds(most: int) -> int:
    """Return for how long to try to connect: at most so long, and at least a second, for 0 is for ever."""
    return max(math.ceil(min(seconds_left(), most)), 1)


class Bounded(psycopg.Connection[TupleRow]):
    """A connection that is closed when an answer takes longer than ANSWER_SECONDS: psycopg has no read timeout.

    Only this finds a peer that takes everything and says nothing, such as a frozen server, or a proxy that lost its
    other side. Inside `answered_within` it is closed when that time is over.
    """

    def wait(self, gen: PQGen[T], *args: Any, **options: Any) -> T:
        """Wait for what psycopg waits for.

        Raises:
            psycopg.OperationalError: it took too long; nobody knows whether it was executed.
        """
        return super().wait(self._bounded(gen), *args, **options)

    def _bounded(self, gen: PQGen[T]) -> PQGen[T]:
        seconds = min(ANSWER_SECONDS, max(seconds_left(), 0.0))
        give_up_at = time.monotonic() + seconds
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > give_up_at:
                    self.close()
                    raise psycopg.OperationalError(f"Postgres has not answered for {seconds:.2g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return cast(T, end.value)


def conninfo_of(url: str) -> str:
    """Return what libpq understands of a URL: SQLAlchemy's `postgresql+psycopg://` becomes `postgresql://`.

    Raises:
        ConfigurationError: it is no URL of Postgres.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    if scheme.partition("+")[0] not in {"postgresql", "postgres"}:
        raise ConfigurationError(
            f"the database URL begins with {scheme}://: expected postgresql://user@host/database; "
            "pass such a URL to install(app, database=...), or set saga_database_url"
        )
    return f"postgresql://{rest}"


def connect(
    url: str,
    *,
    application_name: str,
    statement_timeout_seconds: float | None = 30.0,
    lock_timeout_seconds: float | None = 10.0,
    idle_in_transaction_seconds: float | None = 30.0,
    connect_timeout_seconds: int = 5,
    session: bool = True,
) -> Connection:
    """Open a connection in autocommit, READ COMMITTED.

    With `session=False` nothing is asked of the session that pgbouncer in transaction mode would refuse or mix up: no
    start-up options, so no time limits either, and no prepared statements. What the URL itself says wins over what is
    set here, and its own `options` are kept.

    Raises:
        ConfigurationError: the URL is not one of Postgres.
        psycopg.OperationalError: the server cannot be reached or refuses.
    """
    try:
        given = conninfo_to_dict(conninfo_of(url))
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(
            f"the database URL cannot be read: {str(error).strip()}; expected postgresql://user@host/database"
        ) from error
    wanted: dict[str, Any] = {
        "connect_timeout": connecting_seconds(connect_timeout_seconds),
        "application_name": application_name,
        **PROBES,
    }
    if session:
        limits = {
            "statement_timeout": statement_timeout_seconds,
            "lock_timeout": lock_timeout_seconds,
            "idle_in_transaction_session_timeout": idle_in_transaction_seconds,
        }
        settings = [f"-c {name}={round(seconds * 1000)}" for name, seconds in limits.items() if seconds is not None]
        # A plan made while `inbox` or `task` is nearly empty keeps its sequential scan in a prepared statement; and
        # where nothing but a sequential scan is left, its forbidding price would call the JIT compiler. With the plan
        # so pinned there is nothing to gain from planning again for each call's values.
        settings += [
            "-c default_transaction_isolation=read\\ committed",
            "-c enable_seqscan=off",
            "-c enable_bitmapscan=off",
            "-c jit=off",
            "-c plan_cache_mode=force_generic_plan",
        ]
        # Postgres probes too: a session that it believes to live keeps its locks, and a coordinator's its bells.
        settings += [f"-c {name}={value}" for name, value in _SERVER_PROBES.items()]
        own = given.get("options")
        wanted["options"] = " ".join([*settings, *([str(own)] if own else [])])
        given.pop("options", None)
    connection = Bounded.connect(make_conninfo(**{**wanted, **given}), autocommit=True)
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    if not session:
        connection.prepare_threshold = None
    return connection
