"""Reads what a measurement cost: CPU and memory of processes, and what Postgres wrote. It starts nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psutil
import psycopg

Roles = Mapping[str, Sequence[psutil.Process]]


def cpu_seconds(roles: Roles) -> dict[str, float]:
    """Return the CPU time that the processes of each role have used, user and system."""

    def spent(process: psutil.Process) -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    return {role: _sum(processes, spent) for role, processes in roles.items()}


def memory_mib(roles: Roles) -> dict[str, float]:
    """Return the resident memory of each role in MiB, all its processes together; shared pages count in each."""
    return {
        role: round(_sum(processes, lambda process: process.memory_info().rss) / 2**20, 1)
        for role, processes in roles.items()
    }


def _sum(processes: Sequence[psutil.Process], read: Callable[[psutil.Process], float]) -> float:
    """Add up what processes say of themselves; one that has ended says nothing."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += read(process)
    return total


@dataclass(frozen=True, slots=True)
class Written:
    """What Postgres has written up to a moment."""

    lsn: str
    fsyncs: int
    transactions: int


class PostgresMeter:
    """Counts commits, fsyncs and WAL bytes of a server that does nothing else meanwhile."""

    def __init__(self, superuser_url: str) -> None:
        self._connection = psycopg.connect(superuser_url, autocommit=True, application_name="bench-meter")
        connection = self._connection
        version = connection.info.server_version
        #: Where the number of fsyncs comes from: Postgres moved it in version 18.
        self.fsyncs_from = "pg_stat_io (object wal)" if version >= 180_000 else "pg_stat_wal.wal_sync"
        self._fsyncs = (
            "SELECT coalesce(sum(fsyncs), 0)::bigint FROM pg_stat_io WHERE object = 'wal'"
            if version >= 180_000
            else "SELECT wal_sync::bigint FROM pg_stat_wal"
        )
        #: Commit records in the WAL are exact; without the extension every transaction counts, also those that read.
        self.commits_from = "commit records in the WAL (pg_walinspect)"
        try:
            connection.execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect")
        except psycopg.Error:
            self.commits_from = "pg_stat_database.xact_commit (also those that only read)"

    @property
    def reads_wal(self) -> bool:
        """Say whether commits are counted in the WAL."""
        return "pg_walinspect" in self.commits_from

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def read(self, database: str) -> Written:
        """Return what is written so far. Statistics of an idle backend are up to a second old: settle before."""
        row = self._connection.execute(
            "SELECT pg_current_wal_flush_lsn()::text, xact_commit FROM pg_stat_database WHERE datname = %s", [database]
        ).fetchone()
        fsyncs = self._connection.execute(self._fsyncs.encode()).fetchone()
        assert row is not None
        assert fsyncs is not None
        return Written(str(row[0]), int(fsyncs[0]), int(row[1]))

    def between(self, before: Written, after: Written, *, per: int) -> dict[str, float]:
        """Return commits, fsyncs, WAL bytes and transactions of all kinds between two readings, per saga."""
        row = self._connection.execute("SELECT %s::pg_lsn - %s::pg_lsn", [after.lsn, before.lsn]).fetchone()
        assert row is not None
        found = {
            "commits": float(after.transactions - before.transactions),
            "fsyncs": float(after.fsyncs - before.fsyncs),
            "wal_bytes": float(row[0]),
            "transactions": float(after.transactions - before.transactions),
        }
        if self.reads_wal:
            found["commits"] = self._commit_records(before.lsn, after.lsn)
        return {f"{name}_per_saga": round(value / per, 3) for name, value in found.items()}

    def _commit_records(self, before: str, after: str) -> float:
        try:
            counted = self._connection.execute(
                'SELECT coalesce(sum("count"), 0) FROM pg_get_wal_stats(%s::pg_lsn, %s::pg_lsn, true) '
                "WHERE \"resource_manager/record_type\" LIKE 'Transaction/COMMIT%%'",
                [before, after],
            ).fetchone()
        except psycopg.errors.InternalError:
            return 0.0  # not one record lies between them
        assert counted is not None
        return float(counted[0])
