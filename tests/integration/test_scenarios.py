"""Rides, loans and deliveries as a person runs them: under two kills every run ends as its scenario says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.beside import Command, beside

PROCESSES = ("ride", "loan", "food")


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Command, Path]]]:
    """All three at once, since each waits most of its time; with each, where it writes what its runs came to."""
    folder = tmp_path_factory.mktemp("scenarios")
    with ExitStack() as stack:
        started = {}
        for process in PROCESSES:
            written = folder / f"{process}.json"
            command = beside("demo_shop", process, "--json", str(written), log=folder / f"{process}.log")
            started[process] = (stack.enter_context(command), written)
        yield started


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("process", PROCESSES)
def test_every_scenario_ends_as_it_should_under_a_kill_of_worker_and_coordinator(
    process: str, commands: dict[str, tuple[Command, Path]]
) -> None:
    command, path = commands[process]

    code = command.ends(seconds=220)

    assert code == 0, command.said
    written = json.loads(path.read_text())
    assert written["process"] == process
    assert written["kills"] == {"worker": 1, "coordinator": 1}
    assert written["runs"] == len(written["scenarios"]) == written["completed"] + written["compensated"]
    assert all(scenario["ok"] for scenario in written["scenarios"])
    assert [written[name] for name in ("stalled", "lost", "doubled_effects", "half_done")] == [0, 0, 0, 0]
