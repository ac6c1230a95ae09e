"""Sagas as the code of today has them; a coordinator of the day before has `deployed_old` instead."""

from __future__ import annotations

from saga import Context, saga, step
from tests.integration.application import QUICK, Order, act, confirm, reserve, undo


@saga("novel")
def novel(ctx: Context, order: Order) -> str:
    """A saga that the old code does not have."""
    return ctx.run(reserve, order)


@saga("changed")
def changed(ctx: Context, order: Order) -> str:
    """A saga whose old code asked for the steps in another order."""
    seat = ctx.run(reserve, order)
    ctx.run(confirm, order)
    return seat


@step(retry=QUICK, timeout=None)
def polish(order: Order) -> str:
    """A step that the old code does not have."""
    return act("polish", order)


@polish.compensate
def unpolish(polished: str | None, order: Order) -> None:
    undo("polish", order, polished)


@saga("polished")
def polished(ctx: Context, order: Order) -> str:
    """A saga whose last step the old workers do not know."""
    ctx.run(reserve, order)
    return ctx.run(polish, order)
