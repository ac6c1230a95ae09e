"""What the audit judges by: the client's own journal, the services' ledgers, and what the engine says of each run.

It gathers and must not judge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo_shop.services.catalogue import SERVICES
from demo_shop.services.ledger import Record, read_ledger


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the engine says of a run: its status, and its reason where it is stalled."""

    status: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known at the end of a run. `accepted` maps order ids to their saga, by the client's own journal.

    `planted` are the orders of which the plan makes an undo fail for good; `asked` those the client ever asked for.
    """

    accepted: Mapping[str, str]
    ledgers: Mapping[str, Record]
    opinions: Mapping[str, Opinion] = field(default_factory=dict)
    planted: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Read the client's journal; a last line that a kill cut short was promised to nobody and is left out."""
    entries = []
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if line.endswith("\n"):
            entries.append(json.loads(line))
    return entries


def accepted_orders(journal: list[dict[str, Any]]) -> dict[str, str]:
    """Return the saga of each order that the engine accepted, by order id."""
    return {entry["order"]: entry["saga"] for entry in journal if entry["said"] == "accepted"}


def read_ledgers(folder: Path) -> dict[str, Record]:
    """Read the ledger of each service."""
    return {name: read_ledger(ledger_path(folder, name)) for name in SERVICES}


def ledger_path(folder: Path, service: str) -> Path:
    """Return where a service keeps its ledger."""
    return folder / f"{service}.sqlite"
