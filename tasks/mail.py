"""Mailing a customer, and taking it back by another mail. It must not know which saga asks for it.

The mail service ignores idempotency keys: what stands between a customer and two mails is the probe, which looks before
a second attempt. A mail that is still on its way when the probe looks is doubled all the same.
"""

from __future__ import annotations

from saga import Retry, current, step
from tasks.service import Service
from tasks.values import Order, Receipt

postbox = Service("mail", "SHOP_MAIL_URL")


@step(retry=Retry(attempts=10, first_seconds=0.5, max_seconds=10), timeout=3)  # failure handling
def send_receipt(order: Order) -> Receipt:
    """Tell the customer that the order is on its way."""
    reply = postbox.post("/mails", {"order": order.id, "to": order.email})
    return Receipt(**reply.json())


# failure handling: begin
@send_receipt.compensate(retry=Retry(attempts=None, first_seconds=0.5, max_seconds=10))
def apologise(receipt: Receipt | None, order: Order) -> None:
    """Tell the customer that the order will not come, unless that was said already."""
    if postbox.find("/apologies", order=order.id) is None:
        postbox.post("/apologies", {"order": order.id, "to": order.email, "action_key": current.action_token})


@send_receipt.probe
def find_receipt(order: Order) -> Receipt | None:
    """Look for a mail about the order; keys mean nothing to this service."""
    found = postbox.find("/mails", order=order.id)
    return None if found is None else Receipt(**found)


# failure handling: end
