"""Finding drivers, offering them a ride, and sending one on the way. It must not know which saga asks for it.

The driver's answer to an offer comes later, and not to the step: the service tells the shop, which tells the run.
"""

from __future__ import annotations

from saga import Retry, current, step
from tasks.service import Service
from tasks.values import Offer, RideRequest, Trip

drivers = Service("drivers", "SHOP_DRIVERS_URL")
trips = Service("trips", "SHOP_TRIPS_URL")


@step(timeout=3)
def find_drivers(request: RideRequest) -> list[str]:
    """Ask who is near by, the nearest first. There is nothing to undo."""
    return drivers.list_names("/drivers", order=request.id)


@step(timeout=3)
def offer_ride(request: RideRequest, driver: str) -> Offer:
    """Offer the ride to a driver, whose answer is not waited for here."""
    reply = drivers.post("/offers", {"order": request.id, "driver": driver})
    return Offer(**reply.json())


@offer_ride.compensate
def withdraw_offer(offer: Offer | None, request: RideRequest, driver: str) -> None:
    """Take the offer back, whatever the driver has made of it."""
    drivers.post("/withdrawals", {"order": request.id, "driver": driver, "action_key": current.action_token})


@step(retry=Retry(attempts=10, first_seconds=0.5, max_seconds=10), timeout=3)
def confirm_trip(request: RideRequest, driver: str) -> Trip:
    """Send the driver on the way. It stands behind the pivot, and so has no undo."""
    reply = trips.post("/trips", {"order": request.id, "driver": driver})
    return Trip(**reply.json())
