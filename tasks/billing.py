"""Charging a bill, whatever it is for, and giving the money back. It must not know which saga asks for it."""

from __future__ import annotations

from saga import Retry, current, step
from tasks.payments import psp
from tasks.values import Bill, Charge


@step(timeout=3)
def charge_bill(bill: Bill) -> Charge:
    """Charge a bill. There is no probe: the service honours keys, so asking again is as good."""
    reply = psp.post("/charges", {"order": bill.order, "amount_cents": bill.amount_cents})
    return Charge(**reply.json(), key=current.token)


@charge_bill.compensate
def refund_bill(charge: Charge | None, bill: Bill) -> None:
    """Give the money back, because the run is undone."""
    psp.post("/refunds", {"order": bill.order, "action_key": current.action_token})


@step(retry=Retry(attempts=10, first_seconds=0.5, max_seconds=10), timeout=3)
def refund_charge(charge: Charge) -> None:
    """Give the money back as a step of its own: behind the pivot nothing is undone, but much can be made good."""
    psp.post("/refunds", {"order": charge.order, "action_key": charge.key})
