"""Booking a place in the courier's van, and giving it up. It must not know which saga asks for it."""

from __future__ import annotations

from saga import Retry, current, step
from tasks.service import Service
from tasks.values import Order, Parcel, Reservation

courier = Service("shipping", "SHOP_SHIPPING_URL")


@step(retry=Retry(attempts=10, first_seconds=0.5, max_seconds=10), timeout=3)  # failure handling
def book_parcel(order: Order, reservation: Reservation) -> Parcel:
    """Book a place for the reserved goods."""
    reply = courier.post("/parcels", {"order": order.id, "reservation": reservation.reference})
    return Parcel(**reply.json())


# failure handling: begin
@book_parcel.compensate(retry=Retry(attempts=None, first_seconds=0.5, max_seconds=10))
def cancel_parcel(parcel: Parcel | None, order: Order, reservation: Reservation) -> None:
    """Give the place up."""
    courier.post("/cancellations", {"order": order.id, "action_key": current.action_token})


@book_parcel.probe
def find_parcel(order: Order, reservation: Reservation) -> Parcel | None:
    """Look for the booking under its key."""
    found = courier.find("/parcels", order=order.id, key=current.token)
    return None if found is None else Parcel(**found)


# failure handling: end
