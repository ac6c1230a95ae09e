"""The orders of a run and what befalls each, all drawn from one seed. It must not know how orders are run or judged.

Fates are dealt like cards, in fixed shares, rather than thrown like dice: any seed covers every undo and every probe.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from demo_shop.services.switches import Fault, FaultKind, Script
from tasks.values import Order

CHECKOUT = "checkout"
EXPRESS = "express"

#: Seconds. Above the read timeout of the steps' HTTP client, and below their time limit.
WITHHELD_SECONDS = 1.8
#: Seconds for which an order that its customer will cancel keeps each service busy, so that the cancel meets it midway.
CANCELLED_LATENCY_SECONDS = 0.8

_SKUS = {"teapot": 2_900, "kettle": 4_500, "cup": 700, "tray": 1_900}


@dataclass(frozen=True, slots=True)
class Fate:
    """What befalls an order. `share` is of 200 orders; `stalls` says that an undo of it fails for good."""

    name: str
    saga: str
    share: int
    faults: tuple[Fault, ...] = ()
    stalls: bool = False
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class PlannedOrder:
    """An order, its saga and fate. It starts so long after the shop opens, and is cancelled so long after it starts."""

    order: Order
    saga: str
    fate: str
    starts_after_seconds: float
    cancels_after_seconds: float | None
    stalls: bool
    script: Script


def _always(operation: str, kind: FaultKind) -> Fault:
    return Fault(operation, kind, times=None)


def _lost(operation: str, times: int = 1, *, withheld: bool = False) -> Fault:
    return Fault(operation, FaultKind.REPLY_LOST, times, WITHHELD_SECONDS if withheld else 0.0)


def _error(operation: str, times: int = 1) -> Fault:
    return Fault(operation, FaultKind.SERVER_ERROR, times=times)


_DECLINED = _always("charge", FaultKind.REFUSE)

FATES = (
    # These end completed.
    Fate("smooth", CHECKOUT, 64),
    Fate("smooth express", EXPRESS, 14),
    Fate("reservation lost its reply", CHECKOUT, 4, (_lost("reserve"),)),
    Fate("charge lost its reply", CHECKOUT, 6, (_lost("charge"),)),
    Fate("charge timed out after it landed", CHECKOUT, 4, (_lost("charge", withheld=True),)),
    Fate("charge erred twice", CHECKOUT, 6, (_error("charge", 2),)),
    Fate("booking lost its reply", CHECKOUT, 4, (_lost("book"),)),
    Fate("booking timed out after it landed", EXPRESS, 3, (_lost("book", withheld=True),)),
    Fate("booking erred", CHECKOUT, 4, (_error("book", 2),)),
    Fate("mail lost its reply", CHECKOUT, 6, (_lost("send"),)),
    Fate("mail timed out after it was sent", EXPRESS, 3, (_lost("send", withheld=True),)),
    Fate("mail erred", CHECKOUT, 4, (_error("send"),)),
    # These end compensated.
    Fate("sold out", CHECKOUT, 8, (_always("reserve", FaultKind.REFUSE),)),
    Fate("declined", CHECKOUT, 14, (_DECLINED,)),
    Fate("declined, release in trouble", CHECKOUT, 5, (_DECLINED, _error("release"), _lost("release", 2))),
    Fate("bank out of order", CHECKOUT, 3, (_always("charge", FaultKind.SERVER_ERROR),)),
    Fate(
        "charged, and nobody can see it",
        CHECKOUT,
        4,
        (Fault("charge", FaultKind.REPLY_LOST, times=None), _always("find_charge", FaultKind.BLIND)),
    ),
    Fate("declined express", EXPRESS, 14, (_DECLINED,)),
    Fate("declined express, undo in trouble", EXPRESS, 6, (_DECLINED, _lost("cancel"), _error("apologise"))),
    Fate("no room in the van", EXPRESS, 6, (_always("book", FaultKind.REFUSE),)),
    # These end as the cancel and the pivot race.
    Fate("cancelled", CHECKOUT, 8, cancelled=True),
    Fate("cancelled express", EXPRESS, 5, cancelled=True),
    # These stand stalled, for an operator to settle.
    Fate("release refused for good", CHECKOUT, 2, (_DECLINED, _always("release", FaultKind.REFUSE)), stalls=True),
    Fate("van has left", EXPRESS, 1, (_DECLINED, _always("cancel", FaultKind.REFUSE)), stalls=True),
    Fate("apology bounces", EXPRESS, 1, (_DECLINED, _always("apologise", FaultKind.REFUSE)), stalls=True),
    Fate(
        "refund refused for good",
        CHECKOUT,
        1,
        (_always("charge", FaultKind.SERVER_ERROR), _always("refund", FaultKind.REFUSE)),
        stalls=True,
    ),
)


def plan_orders(count: int, *, seed: int, over_seconds: float) -> list[PlannedOrder]:
    """Plan so many orders, the same ones for the same seed, that start spread over so many seconds.

    Raises:
        ValueError: the count or the time is not positive.
    """
    if count < 1 or over_seconds <= 0:
        raise ValueError(
            f"plan_orders({count}, over_seconds={over_seconds}): expected at least one order and some time"
        )
    rng = random.Random(f"shop:{seed}")
    fates = _deal(count)
    rng.shuffle(fates)
    starts = sorted(rng.uniform(0, over_seconds) for _ in range(count))
    return [_plan(number, fate, after, rng) for number, (fate, after) in enumerate(zip(fates, starts, strict=True), 1)]


def scripts_of(orders: Iterable[PlannedOrder]) -> Mapping[str, Script]:
    """Return what the services must know of the orders, by order id."""
    return {planned.order.id: planned.script for planned in orders}


def _deal(count: int) -> list[Fate]:
    total = sum(fate.share for fate in FATES)
    exact = [(fate, count * fate.share / total) for fate in FATES]
    dealt = [fate for fate, cards in exact for _ in range(int(cards))]
    by_remainder = sorted(exact, key=lambda pair: pair[1] - int(pair[1]), reverse=True)
    return dealt + [fate for fate, _ in by_remainder[: count - len(dealt)]]


def _plan(number: int, fate: Fate, after: float, rng: random.Random) -> PlannedOrder:
    sku = rng.choice(sorted(_SKUS))
    quantity = rng.randint(1, 4)
    latency = rng.uniform(0.02, 0.15)
    return PlannedOrder(
        order=Order(
            id=f"order-{number:04d}",
            email=f"customer{number}@example.com",
            sku=sku,
            quantity=quantity,
            total_cents=quantity * _SKUS[sku],
        ),
        saga=fate.saga,
        fate=fate.name,
        starts_after_seconds=after,
        cancels_after_seconds=rng.uniform(0.3, 1.5) if fate.cancelled else None,
        stalls=fate.stalls,
        script=Script(CANCELLED_LATENCY_SECONDS if fate.cancelled else latency, fate.faults),
    )
