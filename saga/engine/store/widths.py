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
        return {place: usual << times for place, times in self._doubled.items()}

    def bytes_max(self, usual: int) -> int:
        """Return the limit of the bytes of a take."""
        return usual << self._bytes_doubled

    def learn(self, taken: Taken, took: Collection[int]) -> bool:
        """Learn from a turn that took these ids of what was read; True: look again at once, and further."""
        if not (taken.full or taken.cut):
            self._doubled, self._bytes_doubled = {}, 0
            return False
        stayed = Counter(arrival.place for arrival in taken.arrivals if arrival.id not in took)
        read = Counter(arrival.place for arrival in taken.arrivals)
        further = {
            place: self._doubled.get(place, 0) + 1 for place in taken.full if stayed[place] * 2 >= read[place] > 0
        }
        further = {place: times for place, times in further.items() if times <= DOUBLED_MAX}
        self._doubled = {place: times for place, times in self._doubled.items() if place in taken.full} | further
        more_bytes = taken.cut and stayed.total() * 2 >= read.total() and self._bytes_doubled < BYTES_DOUBLED_MAX
        self._bytes_doubled = self._bytes_doubled + more_bytes if taken.cut else 0
        return bool(further) or more_bytes
