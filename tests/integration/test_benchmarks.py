"""The benchmark as a person runs it, in its smallest size: every record has its shape. No time decides anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.record import of, read
from benchmarks.spying import portrait
from tests.integration.leftovers import processes_with

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "benchmarks"]


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(320)
def test_the_smallest_benchmark_measures_every_part_and_leaves_nothing_running(tmp_path: Path) -> None:
    json_path, results_path = tmp_path / "bench.jsonl", tmp_path / "RESULTS.md"
    environment = {**os.environ, "BENCH_TEST_MARK": str(tmp_path)}

    ended = subprocess.run(
        [*COMMAND, "--quick", "--seed", "3", "--json", str(json_path), "--results", str(results_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "seed 3" in ended.stdout
    records = read(json_path)
    assert {record.measurement for record in records} == {
        *("four", "length", "hops", "recovery", "crowd", "waiting", "timers"),
    }
    for record in records:
        assert record.settings["seed"] == 3
        assert record.versions["celery"]
        assert record.machine["cores"]
    _check_comparison(json_path)
    assert {record.values["cache_runs"] for record in of(records, "length")} == {None, 1}
    assert all(record.values["resumed_seconds"] for record in of(records, "recovery"))
    _check_waiting(json_path)
    assert "## Throughput and latency" in results_path.read_text()
    assert not processes_with(f"BENCH_TEST_MARK={tmp_path}")

    again = subprocess.run(
        [*COMMAND, "--from", str(json_path), "--results", str(tmp_path / "again.md")], cwd=ROOT, check=False
    )

    assert again.returncode == 0
    assert (tmp_path / "again.md").read_text() == results_path.read_text()


def test_records_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "no.jsonl"
    path.write_text(json.dumps({"hello": 1}) + "\n")

    ended = subprocess.run(
        [*COMMAND, "--from", str(path), "--results", str(tmp_path / "no.md")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert "no.jsonl:1 is no record of a benchmark" in ended.stderr
    assert not (tmp_path / "no.md").exists()


def test_a_profile_names_the_function_that_works_and_not_those_that_pass_on() -> None:
    raw = "main (a/x.py:1);call (kombu/y.py:7);work (redis/z.py:3) 90\nmain (a/x.py:2);other (saga/core/o.py:9) 10\n"

    found = portrait(raw)

    assert found.samples == 100
    assert [(share.name, share.percent) for share in found.owners] == [("redis client", 90.0), ("saga.core", 10.0)]
    assert "call (kombu/y.py)" not in [share.name for share in found.with_callees]
    assert found.by_itself[0].name == "work (redis/z.py)"


def _check_comparison(path: Path) -> None:
    comparison = {record.system: record.values for record in of(read(path), "four")}
    assert comparison.keys() == {"saga", "saga_no_acks", "chain", "noop"}
    for values in comparison.values():
        assert values["sagas_per_second"] > 0
        assert values["cpu_ms_per_step"].keys() == values["memory_mib"].keys()
        assert {"coordinator", "worker_main", "worker_child", "client"} <= values["cpu_ms_per_step"].keys()
        assert values["written"].keys() == {
            "commits_per_saga",
            "fsyncs_per_saga",
            "wal_bytes_per_saga",
            "transactions_per_saga",
        }
    assert len(comparison["saga"]["idle_ms"]) == len(comparison["chain"]["idle_ms"]) > 0
    # Each step is claimed in a commit of its own: fewer would mean that something else was measured.
    assert comparison["saga"]["written"]["commits_per_saga"] >= 4


def _check_waiting(path: Path) -> None:
    (crowd,) = of(read(path), "crowd")
    measured = {record.values["crowded"]: record.values for record in of(read(path), "waiting")}
    (timers,) = of(read(path), "timers")
    assert measured.keys() == {False, True}
    assert measured[True]["runs"] > crowd.values["runs"] > measured[True]["cached"] > measured[False]["runs"]
    for values in measured.values():
        assert values["sagas_per_second"] > 0
        assert len(values["start_ms"]) == len(values["signal_ms"]) > 0
        assert values["rest_cpu_percent"]["coordinator"] >= 0
        assert values["coordinator_mib"] > 0
    assert timers.values["pending"] > timers.values["fired"] == len(timers.values["late_seconds"]) > 0
    assert timers.values["earliest_seconds"] >= 0  # a timer is never early
