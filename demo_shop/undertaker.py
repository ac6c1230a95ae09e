"""Finding and ending every process of a run by the mark in its environment, also after the run itself was killed.

`python -m demo_shop.undertaker MARK` waits until its standard input closes, and then ends what bears the mark.
"""

from __future__ import annotations

import contextlib
import sys
import time

import psutil

#: The variable that marks the processes of a run; children of children inherit it.
VARIABLE = "SHOP_RUN"
#: Seconds for which processes that a dying one has just started are looked for.
SWEEP_SECONDS = 3.0


def sweep(mark: str) -> int:
    """SIGKILL every process that bears the mark, until a look finds none; return how many there were."""
    ended = 0
    until = time.monotonic() + SWEEP_SECONDS
    while time.monotonic() < until:
        found = _marked(mark)
        if not found:
            break
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=0.5)
        ended += len(found)
    return ended


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(VARIABLE) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # it has ended, or is not ours
    return found


if __name__ == "__main__":
    sys.stdin.read()
    sweep(sys.argv[1])
