"""The process that starts the embedded servers and outlives whoever asked for them just long enough to stop them.

It is run as a file, by its path, and must know nothing but the standard library: it starts in milliseconds.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

#: Seconds between two looks at whether the parent is still there; its closed pipe is noticed at once.
LOOK_SECONDS = 0.5
#: Linux's PR_SET_PDEATHSIG: the kernel sends this signal to a server whose keeper was itself killed.
_PR_SET_PDEATHSIG = 1


class Keeper:
    """Runs servers on request, one JSON line for one JSON line, and stops them all when the parent is gone."""

    def __init__(self, parent_pid: int, folder: Path, remove: bool) -> None:
        self.parent_pid = parent_pid
        self.folder = folder
        self.remove = remove
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.end_signals: dict[str, int] = {}
        self.lock: IO[str] | None = None

    def parent_is_gone(self) -> bool:
        return os.getppid() != self.parent_pid

    def claim_folder(self) -> dict[str, Any]:
        # The lock tells other commands that this folder is in use; the kernel drops it however this process ends.
        self.lock = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.remove = False
            return {"error": "taken"}
        return {"pid": os.getpid()}

    def start(self, request: dict[str, Any]) -> dict[str, Any]:
        name, end_signal = request["name"], request["end_signal"]
        if name in self.running and self.running[name].poll() is None:
            return {"error": "it already runs"}

        def die_with_keeper() -> None:
            if sys.platform == "linux":
                ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, end_signal)

        identity: dict[str, Any] = {}
        if request.get("user") is not None:
            identity = {"user": request["user"], "group": request["group"], "extra_groups": []}
        with Path(request["log"]).open("ab") as log:
            try:
                self.running[name] = subprocess.Popen(
                    request["command"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    preexec_fn=die_with_keeper,
                    **identity,
                )
            except OSError as error:
                return {"error": f"{request['command'][0]}: {error}"}
        self.end_signals[name] = end_signal
        return {"pid": self.running[name].pid}

    def wait(self, name: str, seconds: float) -> int | None:
        """Wait for a server to exit; `None` when it has not within `seconds`, or the parent is gone."""
        process = self.running.get(name)
        deadline = time.monotonic() + seconds
        while process is not None and not self.parent_is_gone():
            try:
                return process.wait(min(0.1, max(0.0, deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                if time.monotonic() >= deadline:
                    return None
        return None

    def stop(self, name: str, signal_number: int, seconds: float) -> int | None:
        process = self.running.pop(name, None)
        if process is None:
            return None
        if process.poll() is None:
            process.send_signal(signal_number)
            process.send_signal(signal.SIGCONT)  # a frozen one would never see it
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
        return process.wait()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "claim":
                return self.claim_folder()
            case "start":
                return self.start(request)
            case "wait":
                return {"exit": self.wait(request["name"], request["seconds"])}
            case "stop":
                return {"exit": self.stop(request["name"], request["signal"], request["seconds"])}
            case other:
                return {"error": f"unknown request {other!r}"}

    def keep(self) -> None:
        """Answer requests until standard input closes or the parent is another process than it was."""
        pending = b""
        while not self.parent_is_gone():
            ready, _, _ = select.select([0], [], [], LOOK_SECONDS)
            for process in self.running.values():
                process.poll()
            if not ready:
                continue
            received = os.read(0, 65_536)
            if not received:
                return
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                os.write(1, json.dumps(self.answer(json.loads(line))).encode() + b"\n")

    def end(self) -> None:
        for name in reversed(list(self.running)):
            self.stop(name, self.end_signals[name], 10.0)
        if self.remove:
            shutil.rmtree(self.folder, ignore_errors=True)


def main() -> None:
    """Keep servers for the parent: the arguments are its process id, the folder, and `remove` or `keep` for the end."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    keeper = Keeper(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "remove")
    try:
        keeper.keep()
    except BrokenPipeError:
        pass  # the parent went away between its question and our answer
    finally:
        keeper.end()


if __name__ == "__main__":
    main()
