"""Charging a card and giving the money back. It must not know which saga asks for it."""

from __future__ import annotations

from saga import Retry, current, step
from tasks.service import Service
from tasks.values import Order, Payment

psp = Service("payments", "SHOP_PAYMENTS_URL")


@step(retry=Retry(attempts=5, first_seconds=0.5, max_seconds=10), timeout=3)  # failure handling
def charge_card(order: Order) -> Payment:
    """Charge the order's total."""
    reply = psp.post("/charges", {"order": order.id, "amount_cents": order.total_cents})
    return Payment(**reply.json())


# failure handling: begin
@charge_card.compensate(retry=Retry(attempts=None, first_seconds=0.5, max_seconds=10))
def refund_card(payment: Payment | None, order: Order) -> None:
    """Give the money back. The charge's key goes along: a charge that comes after its refund is refused."""
    psp.post("/refunds", {"order": order.id, "action_key": current.action_token})


@charge_card.probe
def find_charge(order: Order) -> Payment | None:
    """Look for the charge under its key."""
    found = psp.find("/charges", order=order.id, key=current.token)
    return None if found is None else Payment(**found)


# failure handling: end
