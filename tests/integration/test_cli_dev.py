"""`saga dev` as a process: it serves an application, survives chaos, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from saga.cli import saga
from tests.integration.cli_runs import APP, ROOT, environment, eventually, use_servers

WARES = json.dumps({"name": "cup", "grams": 300})

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]


class Dev:
    """A running `saga dev`, and commands beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = (folder / "dev.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", APP, "saga", "dev", "--json", "--concurrency", "1", "--no-flower"],
            cwd=folder,
            env={**environment(None, None), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        assert self.process.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1] != "}\n":
            line = self.process.stdout.readline()
            assert line, (folder / "dev.log").read_text()
            lines.append(line)
        self.told: dict[str, Any] = json.loads("".join(lines))
        use_servers(self.told["database_url"], self.told["broker_url"])

    def saga(self, *arguments: str) -> Any:
        """Run a command in the same folder and return its document."""
        done = CliRunner().invoke(saga, ["-A", APP, *arguments, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def completes(self, key: str) -> None:
        """Start a run and wait for its end."""
        self.saga("start", "ship", "--id", key, "--input", WARES)
        eventually(
            lambda: self.saga("show", f"ship/{key}")["run"]["status"], lambda status: status == "completed", seconds=60
        )

    def differs_from(self, before: dict[str, Any]) -> None:
        """Wait until what was killed runs again."""
        eventually(self.state, lambda state: bool(state != before))

    def state(self) -> dict[str, Any]:
        """What it wrote for `saga chaos`."""
        found: dict[str, Any] = json.loads((self.folder / ".saga" / "dev.json").read_text())
        return found


@pytest.fixture
def dev(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dev]:
    """A running `saga dev`, ended with the test."""
    # Postgres does not run as root, and who runs it then may not enter the folders that pytest makes.
    folder = Path(tempfile.mkdtemp(prefix="saga-test-dev-"))
    folder.chmod(0o755)
    monkeypatch.chdir(folder)
    started = Dev(folder)
    yield started
    if started.process.poll() is None:
        started.process.terminate()
        started.process.wait(40)
    assert started.process.stdout is not None
    started.process.stdout.close()
    started.log.close()
    shutil.rmtree(folder)


def test_dev_serves_is_killed_part_by_part_and_ends_all(dev: Dev) -> None:
    dev.completes("first")
    for part in ("worker", "coordinator", "broker", "database"):
        before = dev.state()

        killed = dev.saga("chaos", "kill", part)

        assert killed["killed"] == part
        dev.differs_from(before)
        dev.completes(f"after-{part}")
    children = psutil.Process(dev.process.pid).children(recursive=True)
    assert len(children) >= 5

    dev.process.send_signal(signal.SIGINT)

    assert dev.process.wait(40) == 0
    _, left = psutil.wait_procs(children, timeout=10)
    assert left == []
    assert not (dev.folder / ".saga" / "dev.json").exists()


def test_a_killed_dev_leaves_nothing_running(dev: Dev) -> None:
    dev.completes("first")
    children = psutil.Process(dev.process.pid).children(recursive=True)

    os.kill(dev.process.pid, signal.SIGKILL)

    _, left = psutil.wait_procs(children, timeout=25)
    assert left == []
