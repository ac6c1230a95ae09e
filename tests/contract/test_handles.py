"""What a handle refuses before it sends: acts that no turn could take as they were meant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from celery import Celery

from saga import Context
from saga.core.address import shard_of
from saga.core.errors import ConfigurationError, RunEnded, SchemaError, UnknownRun, ValueRefused
from saga.core.events import EventKind
from saga.core.policy import LOST_MAX
from saga.engine.client import Handle, Saga
from saga.engine.installation import DEFAULTS, Installation
from saga.engine.records import SHARDS, Batch, NewEvent
from saga.engine.store.connect import Connection
from tests.unit import steps
from tests.unit.driven import RUN, Driven, define
from tests.unit.steps import charge, mail, stock

from .world import DIGEST, World, new_run


@pytest.fixture
def installation(world: World) -> Iterator[Installation]:
    """A client's installation that knows the steps of the unit tests."""
    app = Celery("handles", set_as_current=False)
    app.add_defaults({**DEFAULTS, "saga_database_url": world.database.url})
    made = Installation(app)
    made.definitions.steps.update({step.name: step for step in (steps.stock, steps.charge, steps.mail)})
    yield made
    made.database.engine(autocommit=True).dispose()


def bought(ctx: Context, n: int) -> int:
    ctx.run(stock, n)
    return ctx.run(charge, n)


def told(ctx: Context, n: int) -> None:
    ctx.pivot()
    ctx.run(mail, n)


def both(ctx: Context, n: int) -> None:
    ctx.gather(ctx.start(charge, n), ctx.start(charge, n + 1))


def poisoned(run: Driven, *names: str) -> Driven:
    """Lose every attempt that a step may lose."""
    for name in names:
        for _ in range(LOST_MAX):
            run.lose(name)
    return run


def stuck_undo() -> Driven:
    return Driven(define(bought)).succeed("stock").abort("charge").abort("stock.compensate")


def stuck_action() -> Driven:
    return poisoned(Driven(define(bought)).succeed("stock"), "charge")


def stored(world: World, installation: Installation, connection: Connection, run: Driven) -> Handle[Any]:
    """Store a run as its log has it, and return its handle."""
    row = new_run(
        id=RUN,
        key="order-7",
        shard=shard_of("checkout", "order-7", SHARDS),
        status=run.status.value,
        reason=run.stall_reason.value if run.stall_reason else None,
        head=len(run.log),
        ended_at=run.now if run.state.ended else None,
    )
    events = [NewEvent(row.id, event, DIGEST) for event in run.log]
    world.turning.commit(connection, world.coordinator(connection), Batch(runs=[row], events=events))
    return Handle(installation, "checkout", "order-7")


def sent(connection: Connection) -> list[tuple[str, str | None, str | None]]:
    """Read the kind, the step and the payload of what was sent."""
    return connection.execute("SELECT kind, dedupe, payload FROM saga.inbox ORDER BY id").fetchall()


@pytest.mark.parametrize("name", ["steps.stock", "steps.stock#1"])
def test_a_stuck_step_is_named_with_or_without_its_number(
    world: World, installation: Installation, connection: Connection, name: str
) -> None:
    handle = stored(world, installation, connection, stuck_undo())

    assert handle.retry(name) == "steps.stock#1"
    assert handle.resolve(name, evidence="Ann looked") == "steps.stock#1"

    payload = '{"evidence":"Ann looked","result":null}'
    assert sent(connection) == [("RetryRequested", "steps.stock#1", None), ("Resolved", "steps.stock#1", payload)]


@pytest.mark.parametrize("name", ["steps.charge", "steps.stock#2", "stock", "steps.nothing", ""])
def test_a_step_that_is_not_stuck_is_neither_retried_nor_resolved(
    world: World, installation: Installation, connection: Connection, name: str
) -> None:
    handle = stored(world, installation, connection, stuck_undo())

    with pytest.raises(ValueRefused, match=r"of run checkout/order-7 is not stuck; stuck: steps\.stock#1"):
        handle.retry(name)
    with pytest.raises(ValueRefused, match="is not stuck"):
        handle.resolve(name, evidence="Ann looked")

    assert sent(connection) == []


def test_a_name_that_fits_several_stuck_steps_needs_its_number(
    world: World, installation: Installation, connection: Connection
) -> None:
    handle = stored(world, installation, connection, poisoned(Driven(define(both)), "charge", "charge#2"))

    with pytest.raises(ValueRefused, match=r"fits several; stuck: steps\.charge#1, steps\.charge#2"):
        handle.retry("steps.charge")

    assert handle.retry("steps.charge#2") == "steps.charge#2"


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (None, "the saga goes on with its result"),
        ('"many"', r"does not fit step steps\.charge#1.*expected integer"),
        ("many", "does not fit"),
    ],
)
def test_a_stuck_action_is_resolved_only_with_a_result_that_fits(
    world: World, installation: Installation, connection: Connection, result: str | None, said: str
) -> None:
    handle = stored(world, installation, connection, stuck_action())

    with pytest.raises(ValueRefused, match=said):
        handle.resolve("steps.charge", evidence="Ann looked", result=result)
    assert sent(connection) == []

    handle.resolve("steps.charge", evidence="Ann looked", result=" 7 ")
    assert sent(connection) == [("Resolved", "steps.charge#1", '{"evidence":"Ann looked","result":7}')]


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (stuck_undo, "an undo has no result"),
        (lambda: Driven(define(told)).abort("mail"), "returns nothing"),
    ],
)
def test_a_result_that_there_cannot_be_is_refused(
    world: World, installation: Installation, connection: Connection, run: Any, said: str
) -> None:
    driven = run()
    handle = stored(world, installation, connection, driven)
    (step, _) = driven.state.tokens[next(iter(driven.state.stuck))]

    with pytest.raises(ValueRefused, match=said):
        handle.resolve(step.occurrence, evidence="Ann looked", result="7")

    assert sent(connection) == []


def test_a_step_of_another_codebase_is_resolved_at_the_operators_word(
    world: World, installation: Installation, connection: Connection
) -> None:
    handle = stored(world, installation, connection, stuck_action())
    installation.definitions.steps.clear()

    with pytest.raises(ValueRefused, match="is not JSON"):
        handle.resolve("steps.charge", evidence="Ann looked", result="{")
    handle.resolve("steps.charge", evidence="Ann looked", result='{ "a": 1}')

    assert [json.loads(payload or "")["result"] for _, _, payload in sent(connection)] == [{"a": 1}]


def test_evidence_must_say_something(world: World, installation: Installation, connection: Connection) -> None:
    handle = stored(world, installation, connection, stuck_undo())

    with pytest.raises(ValueRefused, match="needs evidence"):
        handle.resolve("steps.stock", evidence=" ")


def test_only_a_stalled_run_is_retried(world: World, installation: Installation, connection: Connection) -> None:
    handle = stored(world, installation, connection, Driven(define(bought)))

    with pytest.raises(ValueRefused, match="is running: only a stalled run"):
        handle.retry()
    with pytest.raises(ValueRefused, match="no step of it is stuck"):
        handle.retry("steps.stock")


def test_nothing_is_asked_of_a_run_that_has_ended(
    world: World, installation: Installation, connection: Connection
) -> None:
    ended = Driven(define(bought)).succeed("stock").succeed("charge")
    handle = stored(world, installation, connection, ended)

    for ask in (handle.cancel, handle.terminate):
        with pytest.raises(RunEnded, match="has ended"):
            ask()

    assert ended.count(EventKind.RUN_COMPLETED) == 1
    assert sent(connection) == []


def test_a_cancel_in_a_callers_transaction_is_asked_when_that_commits(
    world: World, installation: Installation, connection: Connection
) -> None:
    handle = Handle[Any](installation, "checkout", "order-7")
    with pytest.raises(UnknownRun):
        handle.cancel()

    with psycopg.connect(world.database.url) as caller:
        handle.cancel(connection=caller)
        before = sent(connection)
        caller.commit()

    assert (before, sent(connection)) == ([], [("CancelRequested", None, None)])


def test_a_session_and_a_connection_at_once_are_refused(
    world: World, installation: Installation, connection: Connection
) -> None:
    definition: Saga[int, int] = Saga(bought, name="checkout", version=1, timeout_seconds=None)
    with psycopg.connect(world.database.url) as caller:
        for ask in (definition.start, Handle[Any](installation, "checkout", "order-7").cancel):
            given = {"id": "order-7"} if ask == definition.start else {}
            arguments = (7,) if ask == definition.start else ()
            with pytest.raises(ConfigurationError, match="pass one of them; nothing was sent"):
                ask(*arguments, session=caller, connection=caller, **given)

    assert sent(connection) == []


def test_missing_tables_are_named_where_a_handle_asks(installation: Installation, empty_database: Any) -> None:
    installation.app.conf.saga_database_url = empty_database.url

    with pytest.raises(SchemaError, match="saga upgrade"):
        Handle[Any](installation, "checkout", "order-7").cancel()
