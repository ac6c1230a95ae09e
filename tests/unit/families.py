"""Sagas that call each other, and the fixture that drives their runs together, turn by turn.

Once all are kept in memory, and once each is brought back from its log for every turn. It knows no test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from saga import ChildFailed, Context, Retry, step
from saga.core.definition import SagaDefinition, Step
from saga.core.events import EventKind
from tests.unit.steps import PLAIN, book, charge, look, ship, stock
from tests.unit.turned import Turned

Family = Callable[..., Turned]


@pytest.fixture(params=[100, 1], ids=["in memory", "a cache of one"])
def family(request: pytest.FixtureRequest) -> Iterator[Family]:
    """Makes runs of a few sagas; at the end every log is held against its row and its replay."""
    made: list[Turned] = []

    def make(*sagas: SagaDefinition) -> Turned:
        made.append(Turned(*sagas, cache_runs=request.param))
        return made[-1]

    yield make
    for turned in made:
        turned.check()


@step(retry=PLAIN, timeout=None)
def wander(n: int) -> int:
    """It has no time limit."""
    return n


@wander.compensate(retry=Retry(attempts=2, first_seconds=10, jitter=0))
def unwander(result: int | None, n: int) -> None:
    return None


def leg(ctx: Context, n: int) -> int:
    """Two steps."""
    return ctx.run(charge, ctx.run(stock, n))


def journey(ctx: Context, n: int) -> int:
    """A child, then a step."""
    return ctx.run(ship, ctx.child(LEG, n))


def tolerant(ctx: Context, n: int) -> str:
    """A child whose failure is an answer."""
    try:
        return str(ctx.child(LEG, n))
    except ChildFailed as failed:
        return f"{failed.step}: {failed.reason}"


def tour(ctx: Context, n: int) -> int:
    """A step, then a child that has a child."""
    ctx.run(book, n)
    return int(ctx.child(JOURNEY, n))


def final(ctx: Context, n: int) -> int:
    """A step, the pivot, a step."""
    ctx.run(stock, n)
    ctx.pivot()
    return ctx.run(look, n)


LEG = SagaDefinition(leg, name="leg")
JOURNEY = SagaDefinition(journey, name="journey")
TOLERANT = SagaDefinition(tolerant, name="tolerant")
TOUR = SagaDefinition(tour, name="tour")
FINAL = SagaDefinition(final, name="final")


def calling(child: SagaDefinition, name: str = "tested") -> SagaDefinition:
    """Return a saga that does nothing but call another."""

    def function(ctx: Context, n: int) -> int:
        return int(ctx.child(child, n))

    return SagaDefinition(function, name=name)


def doing(step: Step[[int], int], name: str) -> SagaDefinition:
    """Return a saga of one step."""

    def function(ctx: Context, n: int) -> int:
        return ctx.run(step, n)

    return SagaDefinition(function, name=name)


def begin(turned: Turned, saga: SagaDefinition, key: str = "7") -> Turned:
    """Start a run, and let what follows come to rest."""
    turned.start(saga, key)
    turned.rest()
    return turned


def undos(turned: Turned, saga: SagaDefinition, key: str) -> list[str]:
    """Return the steps whose compensations a run has asked for, in order; children by their occurrence."""
    return [
        (event.key or "").removeprefix("steps.").removesuffix("#1")
        for event, _ in turned.logs[turned.run_of(saga, key)]
        if event.kind is EventKind.COMPENSATION_SCHEDULED
    ]
