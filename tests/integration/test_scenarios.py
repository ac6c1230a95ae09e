"""Rides, loans and deliveries as a person runs them: under two kills every run ends as its scenario says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("process", ["ride", "loan", "food"])
def test_every_scenario_ends_as_it_should_under_a_kill_of_worker_and_coordinator(process: str, tmp_path: Path) -> None:
    path = tmp_path / "written.json"
    command = [sys.executable, "-m", "demo_shop", process, "--json", str(path)]

    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=220, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    written = json.loads(path.read_text())
    assert written["process"] == process
    assert written["kills"] == {"worker": 1, "coordinator": 1}
    assert written["runs"] == len(written["scenarios"]) == written["completed"] + written["compensated"]
    assert all(scenario["ok"] for scenario in written["scenarios"])
    assert [written[name] for name in ("stalled", "lost", "doubled_effects", "half_done")] == [0, 0, 0, 0]
