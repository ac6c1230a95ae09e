"""The garbage collector of a coordinator, in a process of its own."""

from __future__ import annotations

import subprocess
import sys


def test_the_collector_of_a_coordinator_looks_seldom_at_what_stays() -> None:
    program = (
        "import gc\n"
        "from saga.engine.coordinator import FULL_COLLECTION_AFTER, collect_seldom\n"
        "young, middle, old = gc.get_threshold()\n"
        "collect_seldom()\n"
        "assert gc.get_threshold() == (young, middle, FULL_COLLECTION_AFTER), gc.get_threshold()\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 10_000, gc.get_freeze_count()\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
