"""Sagas as the code of the day before had them: one is missing, one has its steps in another order."""

from __future__ import annotations

from saga import Context, saga
from tests.integration.application import Order, confirm, reserve


@saga("changed")
def changed(ctx: Context, order: Order) -> str:
    """Confirm, then reserve."""
    ctx.run(confirm, order)
    return ctx.run(reserve, order)
