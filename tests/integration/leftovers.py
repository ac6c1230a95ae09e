"""Which processes a command that has ended has left behind, by a mark in their environment."""

from __future__ import annotations

import os
from pathlib import Path


def processes_with(mark: str) -> list[int]:
    """Return the ids of the other processes that have NAME=value in their environment."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
            except OSError:
                continue
    return found
