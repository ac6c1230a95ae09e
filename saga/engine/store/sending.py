"""What anyone sends to a run: a start, a cancel, an operator's act (P1). It never reads or writes the run itself."""

from __future__ import annotations

import sys
from typing import Any
from uuid import UUID

from saga.core.errors import ConfigurationError, SchemaError, ValueRefused
from saga.engine.store.names import statement

_SEND = """
WITH sent AS (
    INSERT INTO {s}.inbox (shard, lane, run, saga, key, kind, dedupe, payload)
    VALUES ({shard}, {lane}, CAST({run} AS uuid), {saga}, {key}, {kind}, {dedupe}, {payload})
    RETURNING shard
)
SELECT {bell} FROM sent
"""

#: SQLSTATEs of a table, and of a schema, that is not there.
_NO_TABLES = frozenset({"42P01", "3F000"})

_FIELDS = ("shard", "lane", "run", "saga", "key", "kind", "dedupe", "payload")


class Sending:
    """P1, bound to a schema."""

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._dbapi = statement(schema, _SEND.format_map(_Marks("%({})s"))).decode()
        self._text = statement(schema, _SEND.format_map(_Marks(":{}"))).decode()

    def send(
        self,
        target: Any,
        *,
        shard: int,
        lane: int,
        run: UUID | None,
        saga: str,
        key: str,
        kind: str,
        dedupe: str | None,
        payload: str | None,
    ) -> None:
        """Put an arrival into the inbox, within the transaction that the target is in.

        `target` is a psycopg connection, any DBAPI connection or cursor (Django's too), or a SQLAlchemy Connection or
        Session. Nothing is ever committed here: in a transaction the arrival exists once the caller has committed, on a
        connection in autocommit at once. After an error send the same again: the turn drops doubles by `run` and
        `dedupe`.

        Raises:
            ValueRefused: the key, or another text, holds a NUL, which Postgres cannot store.
            ConfigurationError: the target is nothing that can run a statement here; the message says what to pass.
            SchemaError: the tables are not in the target's database; its transaction can only be rolled back.
        """
        values: dict[str, Any] = {
            "shard": shard,
            "lane": lane,
            "run": None if run is None else str(run),
            "saga": saga,
            "key": key,
            "kind": kind,
            "dedupe": dedupe,
            "payload": payload,
        }
        for name, value in values.items():
            if isinstance(value, str) and "\x00" in value:
                raise ValueRefused(
                    f"{saga}/{key!r}: the {name} holds a NUL character; Postgres cannot store it in a text"
                )
        try:
            self._execute(target, values)
        except Exception as error:  # each driver has errors of its own, and some are wrapped
            if not _NO_TABLES.isdisjoint(_sqlstates(error)):
                raise SchemaError(
                    f"nothing was sent to {saga}/{key}: the tables of schema {self._schema!r} are not in the database "
                    "of this connection; run `celery -A <your app> saga upgrade` on it, or set saga_schema to where "
                    "they are"
                ) from error
            raise

    def _execute(self, target: Any, values: dict[str, Any]) -> None:
        alchemy = _alchemy_connection(target)
        if alchemy is not None:
            from sqlalchemy import text

            alchemy.execute(text(self._text), values).close()
        elif hasattr(target, "cursor"):
            cursor = target.cursor()
            try:
                cursor.execute(self._dbapi, values)
            finally:
                cursor.close()
        elif hasattr(target, "execute"):
            target.execute(self._dbapi, values)
        else:
            raise ConfigurationError(
                f"cannot send through a {type(target).__qualname__}: expected a psycopg or other DBAPI connection or "
                "cursor, or a SQLAlchemy Connection or Session"
            )


class _Marks(dict[str, str]):
    """Turns the fields into the bind marks of a driver, and leaves the names that `statement` fills."""

    def __init__(self, mark: str) -> None:
        super().__init__({field: mark.format(field) for field in _FIELDS})

    def __missing__(self, name: str) -> str:
        return "{" + name + "}"


def _alchemy_connection(target: Any) -> Any:
    """Return the SQLAlchemy Connection of a Session or Connection, or None for anything else.

    SQLAlchemy is looked at only where the caller has imported it.
    """
    if type(target).__module__.startswith("sqlalchemy.ext.asyncio"):
        raise ConfigurationError(
            f"cannot send through an {type(target).__name__}: its calls must be awaited; "
            "write `await session.run_sync(lambda session: checkout.start(..., session=session))`"
        )
    if "sqlalchemy.orm" in sys.modules:
        from sqlalchemy.orm import Session, scoped_session

        if isinstance(target, (Session, scoped_session)):
            target = target.connection()
    if "sqlalchemy" in sys.modules:
        from sqlalchemy.engine import Connection, Engine

        if isinstance(target, Engine):
            raise ConfigurationError(
                "cannot send through an Engine, it is in no transaction; pass a Connection: `with engine.begin()`"
            )
        if isinstance(target, Connection):
            if target.dialect.name != "postgresql":
                raise ConfigurationError(
                    f"cannot send through a connection to {target.dialect.name}: expected the Postgres database that "
                    "holds the tables of saga; leave `session=` out to send in a transaction of its own"
                )
            return target
    return None


def _sqlstates(error: BaseException) -> set[Any]:
    """Return what Postgres called an error, whatever driver, SQLAlchemy or Django made of it."""
    wrapped = (error, getattr(error, "orig", None), error.__cause__)
    return {getattr(one, name, None) for one in wrapped for name in ("sqlstate", "pgcode")}
