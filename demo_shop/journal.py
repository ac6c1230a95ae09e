"""The client's own file: what it asked and what it was told, one durable JSON line each. It must not know who asks."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from demo_shop.orders import PlannedOrder

#: What the file is called in the folder of a run.
JOURNAL = "client.jsonl"


class Journal:
    """Writes the file; threads take turns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def write(self, said: str, planned: PlannedOrder) -> None:
        """Append a line and flush it to the disk before anything else happens."""
        entry = {"at": time.time(), "said": said, "order": planned.order.id, "saga": planned.saga}
        with self._lock, self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Read the client's journal; a last line that a kill cut short was promised to nobody and is left out."""
    entries = []
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if line.endswith("\n"):
            entries.append(json.loads(line))
    return entries


def accepted_orders(journal: list[dict[str, Any]]) -> set[str]:
    """Return the ids of the orders that were accepted."""
    return {entry["order"] for entry in journal if entry["said"] == "accepted"}
