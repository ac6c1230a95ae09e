"""What a checkout asks of the services, as plain functions: four errands, and the undo of the first two.

The three hand-made approaches share it; it must not know in which order, or by whom, the errands are run. All keys are
made from the order's id, so whoever runs an errand again runs it with the same key. What is marked: the two undos, the
look before a mail (that service ignores keys), and the attempts.
"""

from __future__ import annotations

from dataclasses import dataclass

from demo_shop.evolution.calling import Services, ask
from tasks.values import Order

# failure handling: begin
#: Attempts, as in `tasks`; an undo has no cap there, and here about a minute.
ATTEMPTS, FORWARD_ATTEMPTS, UNDO_ATTEMPTS = 5, 10, 10
# failure handling: end


@dataclass(frozen=True, slots=True)
class Errands:
    """Runs errands. Each raises `Refused` when its service said no, and `Unanswered` when nobody knows."""

    services: Services

    def reserve(self, order: Order) -> str:
        """Keep the goods back, and return the reservation's reference."""
        body = {"order": order.id, "sku": order.sku, "quantity": order.quantity}
        key = f"{order.id}/reserve"
        answer = ask(lambda: self.services.post("stock", "/reservations", body, key=key), attempts=ATTEMPTS)
        return str(answer["reference"])

    def charge(self, order: Order) -> None:
        """Charge the order's total."""
        body = {"order": order.id, "amount_cents": order.total_cents}
        ask(lambda: self.services.post("payments", "/charges", body, key=f"{order.id}/charge"), attempts=ATTEMPTS)

    def book(self, order: Order, reservation: str) -> None:
        """Book a place in the van for the reserved goods."""
        body = {"order": order.id, "reservation": reservation}
        ask(lambda: self.services.post("shipping", "/parcels", body, key=f"{order.id}/book"), attempts=FORWARD_ATTEMPTS)

    def mail(self, order: Order) -> None:
        """Tell the customer, unless that was done already."""

        def send() -> None:
            # failure handling: begin
            if self.services.has("mail", "/mails", order=order.id):
                return
            # failure handling: end
            body = {"order": order.id, "to": order.email}
            self.services.post("mail", "/mails", body, key=f"{order.id}/mail")

        ask(send, attempts=FORWARD_ATTEMPTS)

    # failure handling: begin
    def refund(self, order: Order) -> None:
        """Give the money back. The charge's key goes along: a charge that comes after its refund is refused."""
        body = {"order": order.id, "action_key": f"{order.id}/charge"}
        ask(lambda: self.services.post("payments", "/refunds", body, key=f"{order.id}/refund"), attempts=UNDO_ATTEMPTS)

    def release(self, order: Order) -> None:
        """Let the goods go."""
        body = {"order": order.id, "action_key": f"{order.id}/reserve"}
        ask(lambda: self.services.post("stock", "/releases", body, key=f"{order.id}/release"), attempts=UNDO_ATTEMPTS)

    # failure handling: end
