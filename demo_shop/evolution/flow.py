"""A checkout as a table of states, for approaches whose state outlives a process. It must not know where that is kept.

What is marked: what follows when an errand was refused or left unanswered, and the states of the way back.
"""

from __future__ import annotations

from dataclasses import dataclass

from demo_shop.evolution.calling import Refused, Unanswered
from demo_shop.evolution.errands import Errands
from tasks.values import Order

FIRST = "reserve"
COMPLETED, COMPENSATED, STALLED = "completed", "compensated", "stalled"
ENDED = (COMPLETED, COMPENSATED, STALLED)

_AFTER = {
    ("reserve", "done"): "charge",
    ("charge", "done"): "book",
    ("book", "done"): "mail",
    ("mail", "done"): COMPLETED,
    # failure handling: begin
    ("reserve", "refused"): COMPENSATED,
    ("reserve", "unanswered"): "release",
    ("charge", "refused"): "release",
    ("charge", "unanswered"): "refund",
    ("refund", "done"): "release",
    ("release", "done"): COMPENSATED,
    # failure handling: end
}


@dataclass(frozen=True, slots=True)
class Result:
    """How an errand went; `told` is the reservation's reference, or why it did not go well."""

    went: str
    told: str = ""


def after(errand: str, went: str) -> str:
    """Return the next errand, or how the order ends: stalled, in front of a person, where nothing else is foreseen."""
    return _AFTER.get((errand, went), STALLED)


def run(errands: Errands, errand: str, order: Order, reservation: str) -> Result:
    """Run one errand and say how it went."""
    try:
        match errand:
            case "reserve":
                return Result("done", errands.reserve(order))
            case "charge":
                errands.charge(order)
            case "book":
                errands.book(order, reservation)
            case "mail":
                errands.mail(order)
            # failure handling: begin
            case "refund":
                errands.refund(order)
            case "release":
                errands.release(order)
            # failure handling: end
            case _:
                raise ValueError(f"errand {errand!r}: expected one of {sorted({name for name, _ in _AFTER})}")
    # failure handling: begin
    except Refused as error:
        return Result("refused", str(error))
    except Unanswered as error:
        return Result("unanswered", str(error))
    # failure handling: end
    return Result("done")
