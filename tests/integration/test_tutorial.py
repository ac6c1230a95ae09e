"""The tutorial, followed to the letter in an empty folder: its plays, then its orders, then its plugs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.blocks import ROOT, run_python, write_files
from tests.integration.cli_runs import environment

TUTORIAL = ROOT / "docs" / "tutorial.md"
VERDICT = "24 orders: 12 delivered, 12 taken back, nothing lost, nothing doubled"

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with the tutorial's files. Who runs Postgres instead of root must be able to enter it."""
    made = Path(tempfile.mkdtemp(prefix="saga-test-tutorial-"))
    made.chmod(0o755)
    write_files(TUTORIAL, made)
    yield made
    shutil.rmtree(made)


@pytest.fixture
def dev(folder: Path) -> Iterator[dict[str, str]]:
    """`celery -A shop saga dev` in that folder; what it says is to be exported."""
    with (folder / "dev.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "shop", "saga", "dev", "--no-flower", "--json"],
            cwd=folder,
            env={**environment(None, None), "PYTHONPATH": str(folder)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    try:
        lines: list[str] = []
        while not lines or lines[-1] != "}\n":
            line = process.stdout.readline()
            assert line, (folder / "dev.log").read_text()
            lines.append(line)
        told = json.loads("".join(lines))
        yield {"SAGA_DATABASE_URL": told["database_url"], "CELERY_BROKER_URL": told["broker_url"]}
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(40)
        process.stdout.close()


def test_the_plays_of_the_tutorial(folder: Path) -> None:
    for name in ("first.py", "second.py", "third.py"):
        ran = run_python(name, folder=folder)

        assert ran.returncode == 0, ran.stderr


def test_the_orders_of_the_tutorial_with_and_without_plugs(folder: Path, dev: dict[str, str]) -> None:
    ran = run_python("orders.py", folder=folder, environment=dev, seconds=120)
    assert ran.stdout.strip() == VERDICT, ran.stderr

    again = (folder / "orders.py").read_text().replace('f"order-', 'f"again-')
    (folder / "again.py").write_text(again)
    orders = subprocess.Popen(
        [sys.executable, "again.py"],
        cwd=folder,
        env={**os.environ, **dev, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    plugs = re.findall(r"^celery (-A shop saga chaos kill \w+)$", TUTORIAL.read_text(), re.MULTILINE)
    for plug in plugs:
        pulled = run_python("-m", "celery", *plug.split(), folder=folder, environment=dev)
        assert pulled.returncode == 0, pulled.stderr + pulled.stdout
    said, errors = orders.communicate(timeout=150)

    assert len(plugs) == 4
    assert said.strip() == VERDICT, errors
