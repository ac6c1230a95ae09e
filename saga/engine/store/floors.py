"""Below which inbox ids a take need not look. It knows no SQL; ids in, ids out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from saga.engine.records import Arrival, Place

#: Seconds between two takes that look at everything.
FULL_SCAN_SECONDS = 1.0


class Floors:
    """Remembers, for each shard and lane, up to which id the inbox was emptied.

    Deleted rows that some old transaction can still see make each take linear in their number; a floor jumps over them.
    Ids are not in commit order, so a floor trails by one full scan, and a scan without floors each second finds
    whatever was committed later than that.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._scanned_at = clock()
        self._emptied: dict[Place, int] = {}
        self._floors: dict[Place, int] = {}

    def current(self) -> Mapping[Place, int]:
        """Return the floors for the next take by (shard, lane); empty when a full scan is due."""
        if self._clock() - self._scanned_at < FULL_SCAN_SECONDS:
            return self._floors
        self._scanned_at = self._clock()
        self._floors = dict(self._emptied)
        return {}

    def committed(self, arrivals: Iterable[Arrival]) -> None:
        """Note arrivals that a commit has surely deleted. Those of one take are the lowest of their shard and lane."""
        for arrival in arrivals:
            self._emptied[arrival.place] = max(arrival.id, self._emptied.get(arrival.place, 0))

    def forget(self) -> None:
        """Drop every floor: shards came or went, or a batch failed."""
        self._emptied.clear()
        self._floors = {}
