"""The demo as a person runs it: a small run is good and says so, and an interrupted one leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo_shop.waiting import wait_for
from tests.integration.leftovers import processes_with

COMMAND = [sys.executable, "-m", "demo_shop", "run"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_small_run_under_kills_is_good_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "demo.json"
    command = [*COMMAND, "--orders", "60", "--kills", "3", "--seed", "3", "--lease", "4", "--json", str(path)]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=220, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    written = json.loads(path.read_text())
    assert written["orders"] == 60
    assert sum(written["kills"].values()) == 3
    assert "GOOD" in ended.stdout
    assert "Flower: http://" in ended.stdout


@pytest.mark.chaos
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    mark = f"SHOP_TEST_MARK={tmp_path}"
    environment = {**os.environ, "SHOP_TEST_MARK": str(tmp_path)}
    with subprocess.Popen(
        [*COMMAND, "--orders", "20", "--kills", "0"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        wait_for(process.stdout.readline, what="the demo to say something", seconds=30)

        process.send_signal(number)
        code = process.wait(timeout=60)

    assert code == (-9 if number is signal.SIGKILL else 130)
    wait_for(lambda: not processes_with(mark), what="all that it started to be gone", seconds=10)
