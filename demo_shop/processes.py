"""The processes of a run: started, killed, started again, and none left behind. It must not know what they do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from demo_shop.undertaker import VARIABLE, sweep
from saga.cli.chaos import kill_group

#: The checkout, in which everything runs.
ROOT = Path(__file__).resolve().parent.parent
#: Seconds that a process has to end by itself before it is killed.
STOP_SECONDS = 8.0
#: Seconds between the death of a process and its successor's start: what a watchful supervisor takes.
RESTART_SECONDS = 0.5


@dataclass(slots=True)
class Child:
    """A process that is kept running: each start of it is the leader of a process group of its own."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes]
    kept: bool
    killed: bool = False
    died_at: float | None = None
    unexpected_ends: int = 0

    @property
    def pid(self) -> int:
        """The process id of the current start."""
        return self.process.pid

    @property
    def lives(self) -> bool:
        """Say whether the current start still runs."""
        return self.process.poll() is None


class Supervisor:
    """Keeps children running until it is left; leaving it ends them all, whatever happened."""

    def __init__(self, folder: Path) -> None:
        """Keep the logs in `folder`."""
        self.folder = folder
        self.children: dict[str, Child] = {}
        self._mark = uuid.uuid4().hex
        self._lock = threading.RLock()
        self._ending = False
        self._undertaker: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Supervisor:
        # It sees to the case that this process is killed and can stop nothing itself.
        command = [sys.executable, "-m", "demo_shop.undertaker", self._mark]
        self._undertaker = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, start_new_session=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()
        if self._undertaker is not None:
            _close_input(self._undertaker)
            self._undertaker.wait()

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], *, kept: bool = True) -> Child:
        """Start a process under a name; with `kept` it is started again whenever it ends."""
        with self._lock:
            log = self.folder / f"{name}.log"
            process = self._spawn(command, environment, log)
            child = Child(name, command, environment, log, process, kept)
            self.children[name] = child
            return child

    def kill(self, *names: str) -> None:
        """SIGKILL children and their process groups at once; `mend` starts them again."""
        with self._lock:
            for name in names:
                self.children[name].killed = True
                kill_group(self.children[name].pid)
            for name in names:
                self.children[name].process.wait()

    def mend(self) -> list[str]:
        """Start again what has ended for half a second or more, and name it; ends that nobody asked for are counted."""
        mended = []
        with self._lock:
            for child in self.children.values():
                if self._ending or not child.kept or child.lives:
                    continue
                if child.died_at is None:
                    child.died_at = time.monotonic()
                    child.unexpected_ends += not child.killed
                    kill_group(child.pid)  # what the dead leader's group left behind
                elif time.monotonic() - child.died_at >= RESTART_SECONDS:
                    child.died_at, child.killed = None, False
                    _close_input(child.process)
                    child.process = self._spawn(child.command, child.environment, child.log)
                    mended.append(child.name)
        return mended

    def stop(self, *names: str) -> None:
        """Ask children to end, wait, and kill those that do not; they are not started again."""
        with self._lock:
            stopped = [self.children[name] for name in names]
            for child in stopped:
                child.kept = False
                if child.lives:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child.pid, signal.SIGTERM)
            until = time.monotonic() + STOP_SECONDS
            for child in stopped:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.process.wait(max(0.0, until - time.monotonic()))
            for child in stopped:
                kill_group(child.pid)
                child.process.wait()
                _close_input(child.process)

    def stop_all(self) -> None:
        """End every child; none can be started after that."""
        with self._lock:
            self._ending = True
            self.stop(*reversed(self.children))
            sweep(self._mark)  # what an interrupt kept from being written down

    def tell(self, name: str, line: str) -> None:
        """Write a line to a child's standard input; one that has ended does not hear it."""
        with self._lock, contextlib.suppress(BrokenPipeError):
            stdin = self.children[name].process.stdin
            assert stdin is not None
            stdin.write(line.encode() + b"\n")

    def unexpected_ends(self) -> dict[str, int]:
        """Return how often each child ended although nobody killed it."""
        return {child.name: child.unexpected_ends for child in self.children.values() if child.unexpected_ends}

    def _spawn(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                list(command),
                cwd=ROOT,
                env={**os.environ, **environment, VARIABLE: self._mark},
                stdin=subprocess.PIPE,
                bufsize=0,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def interrupt_on_signals() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does; a second signal cannot cut the stopping short."""
    endings = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(*_: object) -> None:
        for number in endings:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in endings:
        signal.signal(number, interrupt)


def _close_input(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
