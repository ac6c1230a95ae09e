"""The demo and the comparison as a person runs them: small ones are good, and one that is ended leaves nothing behind.

Both run beside the runs that are ended, which must leave them alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo_shop.waiting import wait_for
from tests.integration.beside import Command, beside
from tests.integration.blocks import ROOT
from tests.integration.leftovers import processes_with

COMMAND = [sys.executable, "-m", "demo_shop", "run"]
#: What the comparison tells of each approach in numbers.
FIGURES = ("orders", "lost", "doubled", "half_done", "recovered", "failure_handling_lines")

pytestmark = [pytest.mark.chaos]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands write."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module", autouse=True)
def demo(folder: Path) -> Iterator[Command]:
    """A small run, under way from the first test on."""
    options = ["--orders", "60", "--kills", "3", "--seed", "3", "--lease", "4", "--json", str(folder / "demo.json")]
    with beside("demo_shop", "run", *options, log=folder / "demo.log") as command:
        yield command


@pytest.fixture(scope="module", autouse=True)
def comparison(folder: Path) -> Iterator[Command]:
    """A small comparison, under way from the first test on."""
    path = folder / "deeper" / "evolution.json"
    options = ["--orders", "12", "--kills", "2", "--seed", "21", "--patience", "3", "--json", str(path)]
    with beside("demo_shop", "evolution", *options, log=folder / "evolution.log") as command:
        yield command


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


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_small_run_under_kills_is_good_and_says_so(demo: Command, folder: Path) -> None:
    code = demo.ends(seconds=220)

    assert code == 0, demo.said
    written = json.loads((folder / "demo.json").read_text())
    assert written["orders"] == 60
    assert sum(written["kills"].values()) == 3
    assert "GOOD" in demo.said
    assert "Flower: http://" in demo.said


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_small_comparison_tells_of_all_four_and_the_saga_loses_nothing(comparison: Command, folder: Path) -> None:
    code = comparison.ends(seconds=380)

    assert code == 0, comparison.said
    written = json.loads((folder / "deeper" / "evolution.json").read_text())
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
    assert "single_server" in comparison.said
