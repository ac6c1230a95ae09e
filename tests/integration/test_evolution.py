"""The comparison as a person runs it, but small: its JSON tells of all four, and of the saga that it lost nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FIGURES = ("orders", "lost", "doubled", "half_done", "recovered", "failure_handling_lines")


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_small_comparison_tells_of_all_four_and_the_saga_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "evolution.json"
    options = ["--orders", "12", "--kills", "2", "--seed", "21", "--patience", "3", "--json", str(path)]

    ended = subprocess.run(
        [sys.executable, "-m", "demo_shop", "evolution", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    written = json.loads(path.read_text())
    assert written["seed"] == 21
    assert written["settings"]["orders"] == 12
    assert written["settings"]["kills"] == 2
    approaches = {one["approach"]: one for one in written["approaches"]}
    assert list(approaches) == ["single_server", "checkpoints", "event_sourcing", "saga"]
    for one in approaches.values():
        assert all(isinstance(one[figure], int) and one[figure] >= 0 for figure in FIGURES), one
        assert one["orders"] == 12
        assert one["failure_handling_lines"] > 0
        assert one["recovered"] <= one["in_flight"]
        assert [kill["fault"] for kill in one["kills"]] == ["process", "machine"]
    assert {tuple(kill["at_seconds"] for kill in one["kills"]) for one in approaches.values()} == {
        tuple(kill["at_seconds"] for kill in approaches["saga"]["kills"])
    }
    saga = approaches["saga"]
    assert (saga["lost"], saga["doubled"], saga["half_done"]) == (0, 0, 0), saga
    assert saga["recovered"] == saga["in_flight"]
    assert "single_server" in ended.stdout
