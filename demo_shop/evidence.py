"""What the audit judges by: the client's own journal, the services' ledgers, and what the engine says of each run.

It gathers and must not judge.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from demo_shop.journal import JOURNAL, accepted_orders, read_journal
from demo_shop.orders import PlannedOrder
from demo_shop.services.catalogue import SERVICES
from demo_shop.services.ledger import Record, read_ledger


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the engine says of a run: its status, and its reason where it is stalled."""

    status: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known at the end of a run. `accepted` are the ids of the orders, by the client's own journal.

    `planted` are the orders of which the plan makes an undo fail for good; `asked` those the client ever asked for.
    """

    accepted: Collection[str]
    ledgers: Mapping[str, Record]
    opinions: Mapping[str, Opinion] = field(default_factory=dict)
    planted: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()


def gather(folder: Path, planned: Iterable[PlannedOrder], opinions: Mapping[str, Opinion]) -> Evidence:
    """Read the journal and the ledgers in the folder of a run, once nothing writes to them any more."""
    entries = read_journal(folder / JOURNAL)
    return Evidence(
        accepted=accepted_orders(entries),
        ledgers=read_ledgers(folder, SERVICES),
        opinions=opinions,
        planted=frozenset(order.order.id for order in planned if order.stalls),
        asked=frozenset(entry["order"] for entry in entries),
    )


def read_ledgers(folder: Path, services: Iterable[str]) -> dict[str, Record]:
    """Read the ledgers of services, by their names."""
    return {name: read_ledger(ledger_path(folder, name)) for name in services}


def ledger_path(folder: Path, service: str) -> Path:
    """Return where a service keeps its ledger."""
    return folder / f"{service}.sqlite"
