"""The four services of the shop as data: their paths, what they say no to, and which one ignores keys.

It must not know HTTP or ledgers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that a service does on POST. `refusal` is what it says when it refuses, with `refusal_status`."""

    name: str
    path: str
    refusal: str
    refusal_status: int = 409


@dataclass(frozen=True, slots=True)
class ServiceKind:
    """One service: an action, its undo, and the lookups on GET. `reference` starts what the service calls its effects.

    `echoed` are the fields of the request that the answer repeats, and `subject` the one that says what an effect is
    about where an order may have several; at `roster` the service says whom it could send.
    """

    name: str
    reference: str
    action: Operation
    undo: Operation
    echoed: tuple[str, ...] = ()
    find_action: str | None = None
    find_undo: str | None = None
    honours_keys: bool = True
    subject: str | None = None
    roster: str | None = None

    @property
    def variable(self) -> str:
        """The environment variable in which `tasks` look for its URL."""
        return f"SHOP_{self.name.upper()}_URL"


SERVICES = {
    service.name: service
    for service in (
        ServiceKind(
            name="stock",
            reference="rs",
            action=Operation("reserve", "/reservations", "sold out"),
            undo=Operation("release", "/releases", "the goods are already on the packing table"),
            echoed=("sku", "quantity"),
        ),
        ServiceKind(
            name="payments",
            reference="ch",
            action=Operation("charge", "/charges", "card declined", 402),
            undo=Operation("refund", "/refunds", "the card's account is closed"),
            echoed=("amount_cents",),
            find_action="find_charge",
        ),
        ServiceKind(
            name="shipping",
            reference="pc",
            action=Operation("book", "/parcels", "no room in the van"),
            undo=Operation("cancel", "/cancellations", "the van has left"),
            find_action="find_parcel",
        ),
        ServiceKind(
            name="mail",
            reference="ml",
            action=Operation("send", "/mails", "no such address"),
            undo=Operation("apologise", "/apologies", "the mailbox is full"),
            find_action="find_mail",
            find_undo="find_apology",
            honours_keys=False,
        ),
    )
}
