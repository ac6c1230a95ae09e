"""What clients were told of runs, in order: each look at a run's status is kept as evidence. It judges nothing."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from saga.core.lifecycle import Status
from saga.engine.client import Handle


@dataclass(frozen=True, slots=True)
class Sighting:
    """One look at a run: its status, and how long its log was. None: there was no such run."""

    status: Status | None
    head: int = 0


class Sightings:
    """The looks at each run, by its address. Any thread may look."""

    def __init__(self) -> None:
        self.of_run: dict[str, list[Sighting]] = defaultdict(list)
        self._lock = threading.Lock()

    def look(self, handle: Handle[Any]) -> Any:
        """Look at a run as a client does, and keep what was seen; a look that fails saw nothing.

        Raises:
            Exception: whatever the client is told by.
        """
        with self._lock:  # one look at a time, or their order would say nothing
            found = handle._line.find()
            seen = Sighting(None) if found is None else Sighting(Status(found.row.status), found.row.head)
            looks = self.of_run[handle.address]
            if not looks or looks[-1] != seen:
                looks.append(seen)
        return found
