"""Crash points armed by files: a test writes what shall die where, and the first process to pass there takes it, once.

It works across processes that are started, forked and killed, for a file that was taken stays taken.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import uuid
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from saga.engine.crashpoints import Point, arm


class Victim(StrEnum):
    """What is hit, by which signal."""

    SELF = "self"  #: SIGKILL to the process that passes
    PARENT = "parent"  #: SIGKILL to its parent only: the node dies, the child may finish
    GROUP = "group"  #: SIGKILL to the whole process group
    FREEZE = "freeze"  #: SIGSTOP to the process that passes


@dataclass(frozen=True, slots=True)
class Armed:
    """One crash that was asked for."""

    path: Path
    victim: Victim = Victim.SELF

    @property
    def fired(self) -> int | None:
        """The process that it hit, or None; one that it freezes stands still by then, so a SIGCONT is not too early."""
        taken, frozen = self.path.with_suffix(".fired"), self.path.with_suffix(".frozen")
        written = taken.read_text() if taken.exists() else ""
        if not written:
            return None
        if self.victim is Victim.FREEZE and not frozen.exists():
            if _moves(int(written)):
                return None
            frozen.touch()
        return int(written)


class Armoury:
    """A folder of crashes that are to happen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def arm(self, point: Point, detail: str = "", *, nth: int = 1, victim: Victim = Victim.SELF) -> Armed:
        """Ask for a crash at the n-th passage, in any process, of a point whose detail the regular expression finds."""
        path = self.folder / f"{uuid.uuid4().hex}.armed"
        written = path.with_suffix(".new")
        written.write_text(json.dumps({"point": point, "detail": detail, "left": nth, "victim": victim}))
        written.rename(path)
        return Armed(path, victim)

    def disarm(self) -> None:
        """Forget what has not happened."""
        for path in self.folder.glob("*.armed"):
            path.unlink(missing_ok=True)

    def listen(self) -> None:
        """Let this process, and those forked from it, pass by here at every point."""
        arm(self._pass)

    def _pass(self, point: Point, detail: str) -> None:
        for path in self.folder.glob("*.armed"):
            try:
                with path.open("r+") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    if not path.exists():
                        continue
                    wanted = json.load(file)
                    if wanted["point"] != point or not re.search(wanted["detail"], detail):
                        continue
                    wanted["left"] -= 1
                    file.seek(0)
                    file.truncate()
                    json.dump(wanted, file)
                    file.flush()
                    if wanted["left"] > 0:
                        continue
                    path.with_suffix(".fired").write_text(str(os.getpid()))
                    path.unlink()
            except FileNotFoundError:
                continue
            _hit(Victim(wanted["victim"]))


def _moves(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _hit(victim: Victim) -> None:
    match victim:
        case Victim.SELF:
            os.kill(os.getpid(), signal.SIGKILL)
        case Victim.PARENT:
            os.kill(os.getppid(), signal.SIGKILL)
        case Victim.GROUP:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        case Victim.FREEZE:
            os.kill(os.getpid(), signal.SIGSTOP)
