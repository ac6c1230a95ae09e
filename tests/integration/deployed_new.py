"""Sagas as the code of today has them; a coordinator of the day before has `deployed_old` instead."""

from __future__ import annotations

from saga import Context, saga
from tests.integration.application import Order, confirm, reserve


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
