"""Ordering a meal, and ordering it off. It must not know which saga asks for it.

Whether the restaurant confirms comes later, and not to the step: the restaurant tells the shop, which tells the run.
"""

from __future__ import annotations

from saga import current, step
from tasks.service import Service
from tasks.values import MealOrder, Ticket

kitchen = Service("kitchen", "SHOP_KITCHEN_URL")


@step(timeout=3)
def order_meal(order: MealOrder) -> Ticket:
    """Order the meal from the restaurant, whose answer is not waited for here."""
    reply = kitchen.post("/orders", {"order": order.id, "dish": order.dish})
    return Ticket(**reply.json())


@order_meal.compensate
def unorder_meal(ticket: Ticket | None, order: MealOrder) -> None:
    """Order the meal off."""
    kitchen.post("/cancellations", {"order": order.id, "action_key": current.action_token})
