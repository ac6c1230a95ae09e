"""The parent's side of a keeper: ask it to start and stop servers, and let it go. It knows no kind of server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from random import SystemRandom
from typing import Any

from saga.core.errors import ConfigurationError

#: Seconds that a server may take to start or to stop before this gives up on it.
SERVER_SECONDS = 30.0
#: Below every system's range of ephemeral ports, so that no client's own socket sits there when a server comes back.
PORTS = range(15_000, 32_000)


class Keeper:
    """A keeper process of our own; closing it, or dying, stops the servers it started."""

    def __init__(self, folder: Path, *, remove: bool) -> None:
        """Start a keeper that owns `folder`, and removes it at the end when `remove` says so.

        Raises:
            ConfigurationError: another command's servers run in that folder.
        """
        self._asking = threading.Lock()
        program = str(Path(__file__).with_name("keeper.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", program, str(os.getpid()), str(folder), "remove" if remove else "keep"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Its own session: Ctrl-C in the terminal reaches the command, which then lets its servers go in order.
            start_new_session=True,
            cwd="/",
        )
        if "error" in self.ask(do="claim"):
            self.close()
            raise ConfigurationError(
                f"the servers in {folder} already run for another command; "
                "stop that one, or set SAGA_DATABASE_URL and CELERY_BROKER_URL to use its servers"
            )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send one request and return its answer.

        Raises:
            ConfigurationError: the keeper is gone.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with self._asking:
            try:
                stdin.write(json.dumps(request).encode() + b"\n")
                stdin.flush()
                line = stdout.readline()
            except (OSError, ValueError) as error:
                raise ConfigurationError("the embedded servers were already stopped") from error
        if not line:
            raise ConfigurationError("the process that keeps the embedded servers is gone, and the servers with it")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Stop all servers, remove the folder if that was asked for, and wait until both are done."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(SERVER_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()


class Server:
    """A server of ours: it can be stopped, also hard, and started again with the same address and data."""

    def __init__(
        self,
        name: str,
        keeper: Keeper,
        *,
        command: Sequence[str],
        log: Path,
        port: int,
        answers: Callable[[], bool],
        stop_signal: int,
        kill_signal: int,
        user: tuple[int, int] | None = None,
    ) -> None:
        """Describe a server, without starting it: `answers` says whether it is ready, and never raises."""
        self.name = name
        self.log = log
        self.port = port
        self.pid = 0
        self._keeper = keeper
        self._command = list(command)
        self._answers = answers
        self._stop_signal = stop_signal
        self._kill_signal = kill_signal
        self._user = user

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            ConfigurationError: it ended at once, or does not answer; the end of its log is in the message.
        """
        uid, gid = self._user or (None, None)
        answer = self._keeper.ask(
            do="start",
            name=self.name,
            command=self._command,
            log=str(self.log),
            end_signal=self._kill_signal,
            user=uid,
            group=gid,
        )
        if "error" in answer:
            raise ConfigurationError(f"{self.name} could not be started: {answer['error']}")
        self.pid = answer["pid"]
        waited_seconds = 0.0
        while not self._answers():
            if self._keeper.ask(do="wait", name=self.name, seconds=0.03)["exit"] is not None:
                raise ConfigurationError(f"{self.name} ended while starting; its log {self.log} ends:\n{self._tail()}")
            waited_seconds += 0.03
            if waited_seconds > SERVER_SECONDS:
                self.stop(immediate=True)
                raise ConfigurationError(f"{self.name} does not answer; its log {self.log} ends:\n{self._tail()}")

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server and wait until it has ended; `immediate` is a crash: nothing flushed, no client told."""
        chosen = self._kill_signal if immediate else self._stop_signal
        self._keeper.ask(do="stop", name=self.name, signal=int(chosen), seconds=SERVER_SECONDS / 2)
        self.pid = 0

    def _tail(self) -> str:
        try:
            return self.log.read_text(errors="replace")[-2_000:]
        except OSError as error:
            return f"(no log: {error})"


def is_free(port: int) -> bool:
    """Return whether nothing listens on a port of 127.0.0.1 now."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(taken: Sequence[int] = ()) -> int:
    """Return a port of 127.0.0.1 where nothing listens now.

    Raises:
        ConfigurationError: none of many tried ports is free.
    """
    for port in SystemRandom().sample(PORTS, 200):
        if port not in taken and is_free(port):
            return port
    raise ConfigurationError(f"no free port of 127.0.0.1 between {PORTS.start} and {PORTS.stop}: stop other servers")
