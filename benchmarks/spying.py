"""Samples running processes by py-spy, and sums the samples up by function and by whose code it is."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.fleet import Fleet

#: Samples a second of each process.
RATE = 250
#: Functions that a summary names.
NAMED_MAX = 18
#: A function that spends more than this part of its time in one callee only passes on: the callee is named instead.
PASSED_ON = 0.95
#: Whose code a frame is, by a part of its file's path; the innermost frame that matches takes the sample.
OWNERS = {
    "psycopg": "psycopg",
    "sqlalchemy": "SQLAlchemy",
    "saga/core": "saga.core",
    "saga/engine": "saga.engine",
    "benchmarks": "the benchmark's marks",
    "kombu": "kombu",
    "redis": "redis client",
    "celery": "Celery",
    "billiard": "billiard",
    "pydantic": "pydantic",
    "greenlet": "greenlet",
}


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a process's samples: of everything that was sampled while it ran, idle threads left out."""

    name: str
    percent: float


@dataclass(frozen=True, slots=True)
class Portrait:
    """Where one process spent its time: by owner of the code, and by function (with what it calls, and by itself)."""

    samples: int
    owners: list[Share]
    with_callees: list[Share]
    by_itself: list[Share]


@contextlib.contextmanager
def spying(fleet: Fleet, folder: Path) -> Iterator[None]:
    """Record the coordinator, a worker's main process and one of its children into `folder` while the block runs."""
    roles = fleet.processes()
    spies = []
    for role in ("coordinator", "worker_main", "worker_child"):
        if roles[role]:
            path = folder / f"{role}.raw"
            path.unlink(missing_ok=True)
            command = [str(Path(sys.executable).with_name("py-spy")), "record", "--nonblocking", "-r", str(RATE)]
            command += ["-d", "3600", "-f", "raw", "-o", str(path), "-p", str(roles[role][0].pid)]
            with path.with_suffix(".log").open("wb") as log:
                spies.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
    try:
        yield
    finally:
        for spy in spies:
            spy.send_signal(signal.SIGINT)  # it writes what it has
        for spy in spies:
            try:
                spy.wait(20)
            except subprocess.TimeoutExpired:
                spy.kill()
                spy.wait()


def portrait(raw: str) -> Portrait:
    """Sum up py-spy's raw format: stacks from the outermost frame to the innermost, each with its samples."""
    owners: Counter[str] = Counter()
    inclusive: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    calls: Counter[tuple[str, str]] = Counter()
    total = 0
    for line in raw.splitlines():
        stack, _, number = line.rpartition(" ")
        if not stack or not number.isdigit():
            continue
        frames = [_without_line(frame) for frame in stack.split(";")]
        samples = int(number)
        total += samples
        owners[_owner(frames)] += samples
        alone[frames[-1]] += samples
        for frame in set(frames):
            inclusive[frame] += samples
        for call in set(pairwise(frames)):
            calls[call] += samples
    for (caller, _), samples in calls.items():
        if samples > PASSED_ON * inclusive[caller]:
            inclusive[caller] = 0
    return Portrait(
        samples=total,
        owners=_shares(owners, total),
        with_callees=_shares(inclusive, total),
        by_itself=_shares(alone, total),
    )


def portraits(folder: Path) -> dict[str, Portrait]:
    """Sum up all recordings of a folder, by role."""
    return {path.stem: portrait(path.read_text()) for path in sorted(folder.glob("*.raw"))}


def _shares(counted: Counter[str], total: int) -> list[Share]:
    most = counted.most_common(NAMED_MAX)
    return [Share(name, round(100 * samples / total, 1)) for name, samples in most if samples]


def _without_line(frame: str) -> str:
    name, _, rest = frame.partition(" (")
    path = rest.rstrip(")").rpartition(":")[0] or rest.rstrip(")")
    return f"{name} ({path})" if path else name


def _owner(frames: list[str]) -> str:
    for frame in reversed(frames):
        path = frame.partition(" (")[2]
        for part, owner in OWNERS.items():
            if part in path:
                return owner
    return "Python itself"
