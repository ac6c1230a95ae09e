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


@dataclass(frozen=True, slots=True)
class Bill:
    """What an order costs, whatever was ordered; in euro cents."""

    order: str
    amount_cents: int


@dataclass(frozen=True, slots=True)
class Charge:
    """A bill that was charged. By `key` it can be given back later, also when the run can no longer be undone."""

    order: str
    reference: str
    amount_cents: int
    key: str


@dataclass(frozen=True, slots=True)
class RideRequest:
    """A rider who wants to be driven, and the seconds that each driver has to answer."""

    id: str
    rider: str
    fare_cents: int
    answer_within_seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Offer:
    """A ride that was offered to a driver."""

    order: str
    reference: str
    driver: str


@dataclass(frozen=True, slots=True)
class Trip:
    """A ride that a driver is on the way for."""

    order: str
    reference: str
    driver: str


@dataclass(frozen=True, slots=True)
class LoanApplication:
    """Who wants how much; and how long the documents may lie before a reminder, and how many reminders there are."""

    id: str
    applicant: str
    amount_cents: int
    remind_after_seconds: float = 86_400.0
    reminders_max: int = 5


@dataclass(frozen=True, slots=True)
class Filing:
    """Something that was put on file for a loan: the application, a report, a case, documents, a reminder."""

    order: str
    reference: str


@dataclass(frozen=True, slots=True)
class Funds:
    """Money that is kept back, or was paid out, for a loan; in euro cents."""

    order: str
    reference: str
    amount_cents: int


@dataclass(frozen=True, slots=True)
class MealOrder:
    """A meal from a restaurant, and the seconds that the restaurant and the couriers have for their parts."""

    id: str
    customer: str
    dish: str
    total_cents: int
    confirm_within_seconds: float = 600.0
    pick_up_within_seconds: float = 1_800.0
    deliver_within_seconds: float = 5_400.0


@dataclass(frozen=True, slots=True)
class Ticket:
    """A meal that the kitchen knows of."""

    order: str
    reference: str


@dataclass(frozen=True, slots=True)
class Assignment:
    """A courier who is to fetch a meal."""

    order: str
    reference: str
    courier: str
