"""P1: what is sent joins the caller's transaction, whatever the caller holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from saga.cli.embedded import Database
from saga.core.errors import ConfigurationError, SchemaError, ValueRefused
from saga.engine.records import Batch
from saga.engine.store.connect import Connection, conninfo_of

from .world import World, inbox, new_event, new_run

RUN = uuid4()


def start(world: World, target: Any, *, key: str = "order-7", run: UUID = RUN) -> None:
    world.sending.send(
        target,
        shard=3,
        lane=1,
        run=run,
        saga="checkout",
        key=key,
        kind="RunStarted",
        dedupe="once",
        payload='{"text": "100% :sure %(x)s"}',
    )


@pytest.fixture
def engine(world: World) -> Iterator[sqlalchemy.Engine]:
    engine = sqlalchemy.create_engine("postgresql+psycopg://" + conninfo_of(world.database.url).partition("://")[2])
    yield engine
    engine.dispose()


def test_a_start_on_a_connection_in_autocommit_is_there_at_once(world: World, connection: Connection) -> None:
    start(world, connection)

    (arrival,) = world.reading.pending_arrivals(world.connect(), "checkout", "order-7")
    assert (arrival.run, arrival.shard, arrival.lane, arrival.kind) == (RUN, 3, 1, "RunStarted")
    assert (arrival.dedupe, arrival.payload) == ("once", '{"text": "100% :sure %(x)s"}')


@pytest.mark.parametrize("kind", ["psycopg", "cursor", "connection", "session", "scoped_session"])
@pytest.mark.parametrize("committed", [True, False])
def test_a_start_lives_and_dies_with_the_callers_transaction(
    world: World, connection: Connection, engine: sqlalchemy.Engine, kind: str, committed: bool
) -> None:
    holders: dict[str, Any] = {
        "psycopg": lambda: psycopg.connect(world.database.url),
        "cursor": lambda: psycopg.connect(world.database.url),
        "connection": engine.connect,
        "session": lambda: Session(engine),
        "scoped_session": lambda: scoped_session(sessionmaker(engine)),
    }
    holder = holders[kind]()
    target = holder.cursor() if kind == "cursor" else holder

    start(world, target)
    assert inbox(connection) == []
    if committed:
        holder.commit()
    else:
        holder.rollback()
    holder.close()

    assert len(inbox(connection)) == (1 if committed else 0)


def test_an_open_start_of_a_caller_blocks_no_batch(world: World, connection: Connection) -> None:
    me = world.coordinator(connection)
    caller = world.connect()
    run = new_run(key="order-7", shard=3)

    with caller.transaction():
        start(world, caller, run=run.id)
        world.turning.commit(connection, me, Batch(runs=[run], events=[new_event(run.id, 1)]))

    assert world.reading.find(connection, "checkout", "order-7") is not None


@pytest.mark.parametrize("target", [object(), "postgresql://", None])
def test_what_cannot_run_a_statement_is_refused(world: World, target: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected a psycopg"):
        start(world, target)


def test_an_engine_is_refused_because_it_is_in_no_transaction(world: World, engine: sqlalchemy.Engine) -> None:
    with pytest.raises(ConfigurationError, match=r"engine\.begin\(\)"):
        start(world, engine)


def test_an_async_session_is_refused_with_the_way_to_write_it(world: World) -> None:
    with pytest.raises(ConfigurationError, match="run_sync"):
        start(world, AsyncSession())


def test_a_connection_to_another_database_is_refused(world: World) -> None:
    lite = sqlalchemy.create_engine("sqlite://")
    with lite.connect() as other, pytest.raises(ConfigurationError, match="connection to sqlite"):
        start(world, other)
    lite.dispose()


def test_a_key_with_a_nul_is_refused_before_anything_is_sent(world: World, connection: Connection) -> None:
    with pytest.raises(ValueRefused, match="NUL"):
        start(world, connection, key="order\x00")

    assert inbox(connection) == []


class Wrapped:
    """A connection whose driver's errors come wrapped, as Django's do."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.cursor = self
        self._connection = connection

    def execute(self, query: str, values: dict[str, Any]) -> None:
        try:
            self._connection.execute(query.encode(), values)
        except psycopg.Error as error:
            raise RuntimeError("a framework's own error") from error

    def close(self) -> None: ...

    def __call__(self) -> Wrapped:
        return self


@pytest.mark.parametrize("kind", ["psycopg", "wrapped", "connection", "session"])
@pytest.mark.parametrize("schema", [True, False], ids=["without its tables", "without its schema"])
def test_a_callers_database_without_the_tables_is_named_with_what_to_do(
    world: World, empty_database: Database, kind: str, schema: bool
) -> None:
    if schema:
        with psycopg.connect(empty_database.owner_url) as owner:
            owner.execute("CREATE SCHEMA saga; GRANT USAGE ON SCHEMA saga TO PUBLIC")
    engine = sqlalchemy.create_engine("postgresql+psycopg://" + conninfo_of(empty_database.url).partition("://")[2])
    with psycopg.connect(empty_database.url) as plain, engine.connect() as alchemy, Session(alchemy) as session:
        targets = {"psycopg": plain, "wrapped": Wrapped(plain), "connection": alchemy, "session": session}

        with pytest.raises(SchemaError, match=r"tables of schema 'saga' are not in the database.*saga upgrade"):
            start(world, targets[kind])
        plain.rollback()
    engine.dispose()


def test_other_errors_of_a_caller_stay_what_they_are(world: World, connection: Connection) -> None:
    with connection.transaction(force_rollback=True):
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0")

        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            start(world, connection)
