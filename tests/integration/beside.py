"""Commands of the checkout that run beside the tests of a module, which judge them once they have ended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration.blocks import ROOT


@dataclass(frozen=True)
class Command:
    """A command under way: its process, and the file with all that it says."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace")

    def ends(self, *, seconds: float) -> int:
        """Wait until it has ended, and return its exit code."""
        return self.process.wait(seconds)


@contextmanager
def beside(*arguments: str, log: Path) -> Iterator[Command]:
    """Run `python -m …` beside the block, and end it with it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield Command(process, log)
    finally:
        process.terminate()
        process.wait()
