"""Matching a ride with a driver: what the driver may answer, what comes of it, and the saga.

It must not know services, processes or faults.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from saga import Context, Signal, SignalTimeout, saga
from tasks.billing import charge_bill
from tasks.drivers import confirm_trip, find_drivers, offer_ride
from tasks.values import Bill, RideRequest


@dataclass(frozen=True, slots=True)
class OfferAnswer:
    """A driver's answer to an offer."""

    driver: str
    accepts: bool


@dataclass(frozen=True, slots=True)
class Matched:
    """A driver is on the way."""

    driver: str
    trip: str


@dataclass(frozen=True, slots=True)
class NobodyFree:
    """So many drivers were near by, and none of them took the ride."""

    drivers_asked: int


answer = Signal("answer", OfferAnswer)


@saga("ride", signals=[answer])
def ride(ctx: Context, request: RideRequest) -> Matched | NobodyFree:
    """Offer the ride to one driver near by after another. That none takes it is an answer, not a failure."""
    beginning = ctx.savepoint()
    ctx.run(charge_bill, Bill(request.id, request.fare_cents))
    drivers = ctx.run(find_drivers, request)
    for driver in drivers:
        before_the_offer = ctx.savepoint()
        ctx.run(offer_ride, request, driver)
        if accepts(ctx, driver, request.answer_within_seconds):
            ctx.pivot()  # the rider can cancel up to here
            trip = ctx.run(confirm_trip, request, driver)
            return Matched(driver, trip.reference)
        ctx.rollback(before_the_offer)
    ctx.rollback(beginning)
    return NobodyFree(len(drivers))


def accepts(ctx: Context, driver: str, within_seconds: float) -> bool:
    """Wait for a driver's answer; silence is a no. What drivers say whose offers were withdrawn is passed over."""
    until = ctx.now() + timedelta(seconds=within_seconds)
    while ctx.now() < until:
        try:
            said = ctx.wait_signal(answer, timeout=until - ctx.now())
        except SignalTimeout:
            return False
        if said.driver == driver:
            return said.accepts
    return False
