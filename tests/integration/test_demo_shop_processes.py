"""The demo's supervisor with real processes: what dies is started again, and nothing outlives it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from demo_shop.processes import Supervisor
from demo_shop.waiting import TookTooLong, wait_for

#: Prints its pid and that of a child of its own, and then ignores every polite request.
STUBBORN = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(os.getpid(), child.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    monkeypatch.setattr("demo_shop.processes.STOP_SECONDS", 0.2)
    with Supervisor(tmp_path) as started:
        yield started


def pids_in(log: Path, *, starts: int = 1) -> list[int]:
    def pids() -> list[int] | None:
        lines = log.read_text().splitlines()
        return [int(pid) for pid in lines[starts - 1].split()] if len(lines) >= starts else None

    return wait_for(pids, what="the child to say its pids", seconds=10) or []


def gone(pids: list[int]) -> bool:
    def lives(pid: int) -> bool:
        try:
            return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    return not any(lives(pid) for pid in pids)


def test_a_killed_child_takes_its_group_along_and_is_started_again(supervisor: Supervisor) -> None:
    child = supervisor.start("stubborn", [sys.executable, "-c", STUBBORN], {})
    first = pids_in(child.log)

    supervisor.kill("stubborn")
    wait_for(lambda: gone(first), what="the group to be gone", seconds=5)
    wait_for(supervisor.mend, what="the next start", seconds=5)

    assert pids_in(child.log, starts=2)[0] == child.pid
    assert supervisor.unexpected_ends() == {}


def test_an_end_that_nobody_asked_for_is_mended_and_counted(supervisor: Supervisor) -> None:
    child = supervisor.start("brief", [sys.executable, "-c", "print('here')"], {})
    child.process.wait()

    mended = wait_for(supervisor.mend, what="the next start", seconds=5)

    assert mended == ["brief"]
    assert supervisor.unexpected_ends() == {"brief": 1}


def test_a_child_that_is_not_kept_is_left_alone(supervisor: Supervisor) -> None:
    child = supervisor.start("once", [sys.executable, "-c", ""], {}, kept=False)
    child.process.wait()

    supervisor.mend()

    assert not child.lives
    assert supervisor.unexpected_ends() == {}


def test_leaving_ends_also_those_who_would_not(tmp_path: Path, supervisor: Supervisor) -> None:
    stubborn = pids_in(supervisor.start("stubborn", [sys.executable, "-c", STUBBORN], {}).log)

    supervisor.stop_all()

    wait_for(lambda: gone(stubborn), what="both to be gone", seconds=5)


def test_a_child_hears_what_it_is_told_and_a_dead_one_does_not_mind(supervisor: Supervisor) -> None:
    child = supervisor.start("listener", [sys.executable, "-c", "print(input())"], {}, kept=False)

    supervisor.tell("listener", "sale 3")
    child.process.wait(timeout=10)
    supervisor.tell("listener", "sale 4")

    assert child.log.read_text() == "sale 3\n"


def test_waiting_is_bounded_and_says_for_what() -> None:
    with pytest.raises(TookTooLong, match="a miracle"):
        wait_for(lambda: None, what="a miracle", seconds=0.05)
