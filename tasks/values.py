"""The values that travel between the shop's steps, frozen and typed. They must not know services or sagas."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Order:
    """What a customer ordered; `total_cents` is in euro cents."""

    id: str
    email: str
    sku: str
    quantity: int
    total_cents: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """Goods that the warehouse keeps back for an order."""

    order: str
    reference: str
    sku: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Payment:
    """A charge on the customer's card; `amount_cents` is in euro cents."""

    order: str
    reference: str
    amount_cents: int


@dataclass(frozen=True, slots=True)
class Parcel:
    """A place in the courier's van."""

    order: str
    reference: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """A mail that told the customer about the order."""

    order: str
    reference: str
