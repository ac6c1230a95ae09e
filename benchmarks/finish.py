"""The finish line: a named pipe on which every process of a measurement writes what it saw, with one machine's clock.

It knows kinds and numbers, and must not know what they mean. `time.monotonic_ns` is the same clock in all processes.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

#: Where the processes of a measurement find the pipe.
VARIABLE = "BENCH_FINISH_LINE"
#: Seconds between two looks at whether somebody is there who could still make a mark.
LOOK_SECONDS = 1.0

_descriptor: int | None = None


class Stuck(Exception):
    """Raised when nothing has crossed the line for too long; the message says what was waited for."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One thing that happened: its kind, a number or a name, and when, in nanoseconds of the machine's clock."""

    kind: str
    detail: str
    at_ns: int


def mark(kind: str, detail: object = "-") -> None:
    """Write that something happened now; without a finish line in the environment do nothing."""
    global _descriptor
    at = time.monotonic_ns()
    if _descriptor is None:
        path = os.environ.get(VARIABLE)
        _descriptor = os.open(path, os.O_WRONLY) if path else -1
    if _descriptor >= 0:
        # Shorter than PIPE_BUF: such writes of several processes never mix.
        os.write(_descriptor, f"{kind} {detail} {at}\n".encode())


class FinishLine:
    """The harness's end of the pipe: a thread reads it, so that no process ever waits for room in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Says which process has ended that should not; whoever starts processes sets it.
        self.ended: Callable[[], str | None] = lambda: None
        self._marks: list[Mark] = []
        self._counts: Counter[str] = Counter()
        self._crossed = threading.Condition()
        self._stop_read, self._stop_write = os.pipe()
        os.mkfifo(path)
        # Also for writing: so it never reads as closed between two writers.
        self._descriptor = os.open(path, os.O_RDWR)
        self._thread = threading.Thread(target=self._read, name="finish-line", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.write(self._stop_write, b".")
        self._thread.join()
        for descriptor in (self._descriptor, self._stop_read, self._stop_write):
            os.close(descriptor)
        self.path.unlink(missing_ok=True)

    def count(self, kind: str) -> int:
        """Return how many marks of a kind there are."""
        with self._crossed:
            return self._counts[kind]

    def clear(self) -> None:
        """Forget all marks."""
        with self._crossed:
            self._marks.clear()
            self._counts.clear()

    def marks(self) -> list[Mark]:
        """Return all marks in the order of their clock."""
        with self._crossed:
            return sorted(self._marks, key=lambda seen: seen.at_ns)

    def last(self, kind: str) -> Mark:
        """Return the newest mark of a kind.

        Raises:
            LookupError: there is none.
        """
        for seen in reversed(self.marks()):
            if seen.kind == kind:
                return seen
        raise LookupError(f"nothing of kind {kind!r} has crossed the finish line")

    def wait(self, kind: str, count: int, *, silent_seconds: float = 60.0) -> None:
        """Wait until there are so many marks of a kind.

        Raises:
            Stuck: no mark of any kind came for `silent_seconds`, or a process has ended that should make some.
        """
        with self._crossed:
            heard_at = time.monotonic()
            while self._counts[kind] < count:
                if self._crossed.wait(LOOK_SECONDS):
                    heard_at = time.monotonic()
                    continue
                wanted = f"{self._counts[kind]} of {count} marks {kind!r}"
                if ended := self.ended():
                    raise Stuck(f"{wanted}, and {ended}")
                if time.monotonic() - heard_at > silent_seconds:
                    raise Stuck(f"{wanted}, and none of any kind for {silent_seconds:g} s")

    def _read(self) -> None:
        pending = b""
        while True:
            ready, _, _ = select.select([self._descriptor, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            *lines, pending = (pending + os.read(self._descriptor, 65_536)).split(b"\n")
            with self._crossed:
                for line in lines:
                    kind, detail, at = line.decode().split(" ")
                    self._marks.append(Mark(kind, detail, int(at)))
                    # A coordinator tells several ends at once.
                    self._counts[kind] += int(detail.removeprefix("x")) if detail.startswith("x") else 1
                self._crossed.notify_all()
