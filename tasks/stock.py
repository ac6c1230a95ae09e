"""Keeping goods back for an order, and letting them go. It must not know which saga asks for it."""

from __future__ import annotations

from saga import Retry, current, step
from tasks.service import Service
from tasks.values import Order, Reservation

warehouse = Service("stock", "SHOP_STOCK_URL")


@step(retry=Retry(attempts=5, first_seconds=0.5, max_seconds=10), timeout=3)  # failure handling
def reserve_stock(order: Order) -> Reservation:
    """Keep the order's goods back. There is no probe: the warehouse honours keys, so asking again is as good."""
    reply = warehouse.post("/reservations", {"order": order.id, "sku": order.sku, "quantity": order.quantity})
    return Reservation(**reply.json())


# failure handling: begin
@reserve_stock.compensate(retry=Retry(attempts=None, first_seconds=0.5, max_seconds=10))
def release_stock(reservation: Reservation | None, order: Order) -> None:
    """Let the goods go."""
    warehouse.post("/releases", {"order": order.id, "action_key": current.action_token})


# failure handling: end
