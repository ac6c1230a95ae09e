"""How much a take reads of each shard and lane. It knows no SQL; arrivals in, limits out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from saga.engine.records import Place, Taken

#: How often the limit of a shard and lane is doubled at most: from 8 arrivals to some 1,000, with as many shards.
DOUBLED_MAX = 7
#: The same for the bytes of a whole take: from 8 MiB to 64.
BYTES_DOUBLED_MAX = 3


class Widths:
    """Has a take read more where most of what it read had to stay, which would hide what comes after it.

    What names no run yet stays until that has started, and the start of a run that undoes another until that has ended.
    """

    def __init__(self) -> None:
        self._doubled: dict[Place, int] = {}
        self._bytes_doubled = 0

    def limits(self, usual: int) -> dict[Place, int]:
        """Return the limits that are not as usual."""
        return {place: usual << times for place, times in self._doubled.items() if times}

    def bytes_max(self, usual: int) -> int:
        """Return the limit of the bytes of a take."""
        return usual << self._bytes_doubled

    def learn(self, taken: Taken, took: Collection[int]) -> bool:
        """Learn from a turn that took these ids of what was read; True: look again at once, and further."""
        if not (taken.full or taken.cut):
            self._doubled, self._bytes_doubled = {}, 0
            return False
        read = Counter(arrival.place for arrival in taken.arrivals)
        stayed = Counter(arrival.place for arrival in taken.arrivals if arrival.id not in took)
        further = False
        doubled = {place: self._doubled.get(place, 0) for place in taken.full}
        for place in taken.full:
            if 2 * stayed[place] >= read[place] and doubled[place] < DOUBLED_MAX:
                doubled[place] += 1
                further = True
        self._doubled = doubled
        if not taken.cut:
            self._bytes_doubled = 0
        elif 2 * stayed.total() >= read.total() and self._bytes_doubled < BYTES_DOUBLED_MAX:
            self._bytes_doubled += 1
            further = True
        return further
