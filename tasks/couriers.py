"""Finding couriers, sending one for a meal, and relieving one. It must not know which saga asks for it.

That a courier has picked up or handed over comes later, and not to the step: the service tells the shop.
"""

from __future__ import annotations

from saga import current, step
from tasks.service import Service
from tasks.values import Assignment, MealOrder

couriers = Service("couriers", "SHOP_COURIERS_URL")


@step(timeout=3)
def find_couriers(order: MealOrder) -> list[str]:
    """Ask who is free, the nearest first. There is nothing to undo."""
    return couriers.list_names("/couriers", order=order.id)


@step(timeout=3)
def assign_courier(order: MealOrder, courier: str) -> Assignment:
    """Send a courier to the restaurant; one who refuses has not been sent."""
    reply = couriers.post("/assignments", {"order": order.id, "courier": courier})
    return Assignment(**reply.json())


@assign_courier.compensate
def relieve_courier(assignment: Assignment | None, order: MealOrder, courier: str) -> None:
    """Tell the courier that nothing is to be fetched."""
    couriers.post("/reliefs", {"order": order.id, "courier": courier, "action_key": current.action_token})
