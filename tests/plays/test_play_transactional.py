"""Transactional steps in a play: the connection that they are given, and what is said where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy.orm import Session

from saga import Abort, Context, Retry, RetryLater, SagaError, Status, ValueRefused, current, saga, step
from saga.core.events import EventKind
from saga.testing import Played, every_crash_point, play
from tests.unit.steps import PLAIN, look, stock

pytestmark = pytest.mark.usefixtures("own_declarations")


def insert(entry: str) -> None:
    current.connection.execute(sqlalchemy.text("INSERT INTO entry VALUES (:entry)"), {"entry": entry})


@step(retry=PLAIN, transactional=True)
def post(n: int) -> int:
    insert(f"post {n}")
    return n


@post.compensate(retry=Retry(attempts=2, first_seconds=10, jitter=0))
def take_back(result: int | None, n: int) -> None:
    insert(f"take back {result}")


@step(retry=PLAIN)
def plainly(n: int) -> int:
    insert("plain")
    return n


@saga("posted")
def posted(ctx: Context, n: int) -> int:
    ctx.run(stock, n)
    ctx.run(post, n)
    return ctx.run(look, n)


@saga("plain")
def plain(ctx: Context, n: int) -> int:
    return ctx.run(plainly, n)


@pytest.fixture
def connection() -> Iterator[sqlalchemy.Connection]:
    engine = sqlalchemy.create_engine("sqlite://")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE entry (entry text)"))
        connection.commit()
        yield connection
    engine.dispose()


def entries(connection: sqlalchemy.Connection) -> list[str]:
    return list(connection.scalars(sqlalchemy.text("SELECT entry FROM entry ORDER BY rowid")))


# -- without a connection ------------------------------------------------------------------------------------------


def test_a_transactional_step_that_wants_a_connection_is_told_what_to_write() -> None:
    with pytest.raises(SagaError) as raised:
        play(posted, 3)

    told = str(raised.value)
    assert "test_play_transactional.post is transactional, and this play has no connection" in told
    assert "connection=" in told
    assert "replace={post: …}" in told


def test_its_compensation_is_told_so_by_its_own_name() -> None:
    with pytest.raises(SagaError, match=r"replace=\{take_back: …\}"):
        play(posted, 3, replace={post: 3, look: Abort("no")})


def test_a_step_that_goes_on_without_is_told_all_the_same() -> None:
    def careless(n: int) -> int:
        try:
            insert("nothing")
        except SagaError:
            return n
        return n

    with pytest.raises(SagaError, match="has no connection"):
        play(posted, 3, replace={post: careless})


def test_a_transactional_step_that_is_replaced_needs_no_connection() -> None:
    assert play(posted, 3, replace={post: 3}).result == 3


def test_a_step_that_is_not_transactional_has_no_connection_anyway(connection: sqlalchemy.Connection) -> None:
    played = play(plain, 3, connection=connection)

    assert played.status is Status.COMPENSATED
    assert "declare it @step(transactional=True)" in played.reason


# -- with one --------------------------------------------------------------------------------------------------------


def test_a_transactional_step_plays_on_the_connection_that_is_given(connection: sqlalchemy.Connection) -> None:
    played = play(posted, 3, connection=connection)

    assert played.result == 3
    assert entries(connection) == ["post 3"]


def test_its_compensation_plays_there_too(connection: sqlalchemy.Connection) -> None:
    played = play(posted, 3, replace={look: Abort("no")}, connection=connection)

    assert played.status is Status.COMPENSATED
    assert entries(connection) == ["post 3", "take back 3"]


def test_the_transaction_stays_the_callers(connection: sqlalchemy.Connection) -> None:
    insert_here = sqlalchemy.text("INSERT INTO entry VALUES ('before')")
    connection.execute(insert_here)

    play(posted, 3, connection=connection)
    connection.rollback()

    assert entries(connection) == []


@pytest.mark.parametrize("error", [Abort("no"), ValueError("no"), RetryLater(after=5)])
def test_what_a_step_did_before_it_raised_is_rolled_back(connection: sqlalchemy.Connection, error: Exception) -> None:
    attempts: list[int] = []

    def fails_once(n: int) -> int:
        insert(f"attempt {current.attempt}")
        attempts.append(current.attempt)
        if current.attempt == 1:
            raise error
        return n

    played = play(posted, 3, replace={post: fails_once}, connection=connection)

    expected = [] if isinstance(error, Abort) else ["attempt 2"]
    assert entries(connection) == expected
    assert played.status is (Status.COMPLETED if expected else Status.COMPENSATED)


def test_a_result_that_cannot_be_stored_is_rolled_back_and_not_undone(connection: sqlalchemy.Connection) -> None:
    def refused(n: int) -> Any:
        insert("refused")
        return "no number"

    played = play(posted, 3, replace={post: refused}, connection=connection)

    assert played.status is Status.COMPENSATED
    assert entries(connection) == []
    kinds = [event.kind for event in played.events]
    assert EventKind.STEP_ROLLED_BACK in kinds
    assert EventKind.STEP_REFUSED not in kinds


def test_what_is_no_sqlalchemy_connection_is_refused(connection: sqlalchemy.Connection) -> None:
    for other in (Session(connection), "postgresql://"):
        with pytest.raises(ValueRefused, match="expected a SQLAlchemy Connection"):
            play(posted, 3, connection=other)  # type: ignore[arg-type]


def test_a_transactional_step_posts_once_at_every_crash_point(connection: sqlalchemy.Connection) -> None:
    def empty() -> None:
        connection.execute(sqlalchemy.text("DELETE FROM entry"))

    def balanced(played: Played) -> None:
        expected = {Status.COMPLETED: [["post 3"]], Status.COMPENSATED: [[], ["post 3", "take back 3"]]}
        assert entries(connection) in expected[played.status]

    tried = every_crash_point(posted, 3, invariant=balanced, before=empty, connection=connection)

    assert tried > 40
