"""The two ways in which the shop fulfils an order. They must not know services, processes or faults."""

from __future__ import annotations

from saga import Context, saga
from tasks.mail import send_receipt
from tasks.payments import charge_card
from tasks.shipping import book_parcel
from tasks.stock import reserve_stock
from tasks.values import Order, Parcel


@saga("checkout")
def checkout(ctx: Context, order: Order) -> Parcel:
    """Charge first: once the money is there the order is sent, whatever it takes."""
    reservation = ctx.run(reserve_stock, order)
    ctx.run(charge_card, order)
    ctx.pivot()  # failure handling
    parcel, _ = ctx.gather(ctx.start(book_parcel, order, reservation), ctx.start(send_receipt, order))
    return parcel


@saga("express")
def express(ctx: Context, order: Order) -> Parcel:
    """Charge last: the van leaves within the hour, so its place is booked, and confirmed by mail, at once.

    A card that is declined after that cancels a parcel and costs an apology.
    """
    reservation = ctx.run(reserve_stock, order)
    parcel, _ = ctx.gather(ctx.start(book_parcel, order, reservation), ctx.start(send_receipt, order))
    ctx.run(charge_card, order)
    ctx.pivot()
    return parcel
