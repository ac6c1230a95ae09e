"""Runs that may kill their coordinators: what is noted in a shard whose owner died, and when a run is found guilty.

It notes and judges; taking the turns is the coordinator's, and what a run does it does not know.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from uuid import UUID

from saga.engine.store.connect import Connection
from saga.engine.store.membership import Membership, OwnedShard

#: What a shard's `strikes` say: its last owner died.
WARNED = 1
#: The one before it too: its runs are tried one at a time. Each owner that dies while it tries one run again adds one.
TRIED_ALONE = 2
#: Coordinators that may die in a row while they try one run alone, before that run is stalled.
DEATHS_ALONE_MAX = 3


class Suspicion:
    """The shards of one coordinator whose last owners died, until all that was there has been tried."""

    def __init__(self, membership: Membership, me: UUID) -> None:
        self._membership = membership
        self._me = me
        self._warned: set[int] = set()
        self._careful: dict[int, OwnedShard] = {}

    def __bool__(self) -> bool:
        return bool(self._warned or self._careful)

    @property
    def careful(self) -> bool:
        """Whether runs of some shard are to be tried one at a time."""
        return bool(self._careful)

    def came(self, connection: Connection, shards: Iterable[OwnedShard]) -> None:
        """Take note of shards that came; those of the newly dead are marked before anything of them is tried.

        Raises:
            psycopg.Error: nobody knows what is marked; take none of their turns.
        """
        shards = list(shards)
        fresh = {shard.id for shard in shards if shard.strikes == 0 and shard.republish_from is not None}
        if fresh:
            self._membership.set_strikes(connection, self._me, sorted(fresh), WARNED)
        self._warned |= fresh
        self._careful |= {shard.id: shard for shard in shards if shard.strikes > 0}

    def first(self, runs: dict[UUID, int]) -> dict[UUID, int]:
        """Order runs (by their shards) for the trial: the suspects first, so that evidence is not overwritten."""
        suspects = {shard.suspect for shard in self._careful.values()}
        return dict(sorted(runs.items(), key=lambda item: item[0] not in suspects))

    def guilty(self, run: UUID, shard: int) -> bool:
        """Return whether owner after owner died while it tried this run alone."""
        held = self._careful.get(shard)
        return held is not None and held.suspect == run and held.strikes >= TRIED_ALONE + DEATHS_ALONE_MAX - 1

    def tries(self, connection: Connection, run: UUID, shard: int) -> None:
        """Write down, durably, that this run of a careful shard is tried next and alone.

        Raises:
            psycopg.Error: nobody knows; do not try the run.
        """
        held = self._careful.get(shard)
        if held is None:
            return
        strikes = held.strikes + 1 if held.suspect == run else TRIED_ALONE
        self._membership.set_suspect(connection, self._me, shard, run, strikes)

    def survived(self, connection: Connection) -> None:
        """Note that the runs tried so far killed nobody: whoever dies now does not die of them.

        Raises:
            psycopg.Error: the last one stays suspect.
        """
        self._membership.set_strikes(connection, self._me, sorted(self._careful), TRIED_ALONE)
        self._careful = {
            shard: replace(held, suspect=None, strikes=TRIED_ALONE) for shard, held in self._careful.items()
        }

    def acquit(self, connection: Connection, owned: Iterable[int]) -> None:
        """Clear the shards: all that was there when they came has been tried, and nobody died of it.

        Raises:
            psycopg.Error: nobody knows; do it again.
        """
        shards = (self._careful.keys() | self._warned) & set(owned)
        self._membership.set_strikes(connection, self._me, sorted(shards), 0)
        self._careful.clear()
        self._warned.clear()
