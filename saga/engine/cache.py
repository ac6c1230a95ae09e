"""The runs that a coordinator keeps in memory, least recently used first out. It decides nothing about them."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from saga.core.execution import Blocked, Execution
from saga.engine.alarm import deadline
from saga.engine.records import RunRow

log = logging.getLogger("saga.coordinator")

#: Seconds that a saga function may take to leave memory; one that does I/O on its way out would hold up every run.
EVICTION_SECONDS = 1.0


@dataclass(slots=True)
class CachedRun:
    """A run in memory, as of `head`; with what its row says and never changes."""

    execution: Execution
    saga: str
    key: str
    shard: int
    version: int
    head: int
    digest: bytes
    input_digest: bytes
    started_at: datetime
    stall: str | None = None  #: JSON text of the last stall

    def row(self, build: str) -> RunRow:
        """Return the run's row as this memory has it; if the database has moved on, the commit finds out."""
        execution = self.execution
        cause, reason = execution.state.cause, execution.stall_reason
        return RunRow(
            id=execution.run,
            saga=self.saga,
            key=self.key,
            shard=self.shard,
            version=self.version,
            build=build,
            status=execution.status.value,
            reason=reason.value if reason else None,
            cause=cause.value if cause else None,
            head=self.head,
            digest=self.digest,
            input_digest=self.input_digest,
            started_at=self.started_at,
            ended_at=None,
        )


class Cache:
    """Suspended runs by id. What is taken out has its saga function thrown out of memory."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._runs: OrderedDict[UUID, CachedRun] = OrderedDict()
        #: Executions whose functions survived their eviction: referenced for ever, or they would be thrown at again.
        self._survivors: dict[UUID, list[Execution]] = {}
        self._clinging: set[UUID] = set()

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, run: object) -> bool:
        return run in self._runs

    def rows(self, runs: Iterable[UUID], build: str) -> dict[UUID, RunRow]:
        """Return the rows of those of the runs that are in memory."""
        return {run: self._runs[run].row(build) for run in runs if run in self._runs}

    def get(self, run: UUID, head: int) -> CachedRun | None:
        """Return a run as of this head; one that stands elsewhere is evicted."""
        cached = self._runs.get(run)
        if cached is None:
            return None
        if cached.head != head:
            self.evict([run])
            return None
        self._runs.move_to_end(run)
        return cached

    def put(self, run: UUID, cached: CachedRun) -> None:
        """Keep a run; the least recently used makes room."""
        self._runs[run] = cached
        self._runs.move_to_end(run)
        while len(self._runs) > self._most:
            self.evict([next(iter(self._runs))])

    def evict(self, runs: Iterable[UUID]) -> None:
        """Drop runs from memory; their logs bring them back."""
        for run in list(runs):
            cached = self._runs.pop(run, None)
            if cached is not None:
                self.let_go(cached.execution)

    def clings(self, run: UUID, *, forgive: bool = False) -> bool:
        """Say whether a run's function survived its eviction here, and has not been forgiven since."""
        if forgive:
            self._clinging.discard(run)
        return run in self._clinging

    def evict_shards(self, shards: frozenset[int]) -> None:
        """Drop every run of these shards."""
        self.evict([run for run, cached in self._runs.items() if cached.shard in shards])

    def clear(self) -> None:
        """Drop everything."""
        self.evict(list(self._runs))

    def let_go(self, execution: Execution) -> None:
        """Throw a saga function out of memory; one that survives is kept referenced, or it would be thrown at again."""
        try:
            with deadline(EVICTION_SECONDS):
                dropped = execution.drop()
        except Blocked:  # it struck between the function and here
            dropped = execution.drop()
        if not dropped:
            log.error(
                "the saga function of run %s survived its eviction: it must not catch BaseException", execution.key
            )
            self._survivors.setdefault(execution.run, []).append(execution)
            self._clinging.add(execution.run)
