"""What came of an approach's orders, counted from the verdict on the services' ledgers. It is pure.

An approach's own word counts where the ledgers bear it out. Of an order that it has lost sight of, or has given up, the
ledgers alone tell: done in full or undone in full is consistent, whoever knows of it. It must not know approaches.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from demo_shop.evidence import Evidence
from demo_shop.services.catalogue import SERVICES
from demo_shop.trace import traces_of
from demo_shop.verdict import Verdict, Wrong, judge


@dataclass(frozen=True, slots=True)
class Tally:
    """The figures of one approach, in orders.

    `lost`: accepted, and then no service has an effect of it, and the approach knows no end of it. `doubled`: an effect
    or an undo is there twice. `half_done`: only some of its effects are in force, or it ended otherwise than the
    approach says. `in_flight`: it was in hand of something that was killed; `recovered`: those of them that came to a
    consistent end.
    """

    orders: int
    completed: int
    compensated: int
    stalled: int
    lost: int
    doubled: int
    half_done: int
    in_flight: int
    recovered: int
    mail_doubles: int
    duplicate_requests: int
    findings: tuple[str, ...]


def count(evidence: Evidence, *, in_flight: Collection[str]) -> Tally:
    """Judge the orders by the ledgers, and count what is wrong with how many."""
    verdict = judge(evidence)
    traces = traces_of(evidence.ledgers, tuple(SERVICES.values()))

    def in_part(order: str) -> bool:
        return 0 < sum(trace.stands for trace in traces[order]) < len(SERVICES)

    def untouched(order: str) -> bool:
        return not any(trace.effects for trace in traces[order])

    unknown, given_up = _orders(verdict, Wrong.LOST), _orders(verdict, Wrong.UNPLANTED_STALL)
    lost = {order for order in unknown if untouched(order)}
    doubled = _orders(verdict, Wrong.DOUBLED)
    half_done = {order for order in unknown | given_up if in_part(order)}
    half_done |= _orders(verdict, Wrong.HALF_DONE, Wrong.LATE)
    held = set(in_flight) & set(evidence.accepted)
    return Tally(
        orders=verdict.orders,
        completed=verdict.completed,
        compensated=verdict.compensated,
        stalled=verdict.stalled,
        lost=len(lost),
        doubled=len(doubled),
        half_done=len(half_done),
        in_flight=len(held),
        recovered=len(held - lost - doubled - half_done),
        mail_doubles=verdict.mail_doubles,
        duplicate_requests=verdict.duplicate_requests,
        findings=tuple(f"{found.order}: {found.wrong.value}: {found.detail}" for found in verdict.findings),
    )


def _orders(verdict: Verdict, *wrongs: Wrong) -> set[str]:
    return {found.order for found in verdict.findings if found.wrong in wrongs}
