"""What is shipped, and what a newcomer's `make` says."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Build a wheel from a copy of the checkout, as files made here would be picked up by the next build."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md", "saga", "tasks", "demo_shop", "tests"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name)
        elif source.exists():
            shutil.copy(source, copy / name)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "out", "."],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (copy / "out").glob("*.whl")
    return zipfile.ZipFile(path).namelist()


def test_the_wheel_holds_the_framework_only(wheel: list[str]) -> None:
    top = {name.split("/")[0] for name in wheel}

    assert {name for name in top if not name.endswith(".dist-info")} == {"saga"}
    assert not [name for name in wheel if "__pycache__" in name]


def test_the_wheel_holds_all_of_the_framework(wheel: list[str]) -> None:
    there = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "saga").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert there - set(wheel) == set()


def test_the_version_is_written_in_one_place() -> None:
    metadata = configparser.ConfigParser(interpolation=None)
    metadata.read(ROOT / "setup.cfg")
    version = metadata["metadata"]["version"]

    assert importlib.metadata.version("saga-on-celery") == version
    repeated = [
        path
        for path in [*(ROOT / "saga").rglob("*.py"), ROOT / "pyproject.toml"]
        if re.search(rf"version\S*\s*=\s*['\"]{re.escape(version)}", path.read_text())
    ]
    assert repeated == []


def test_make_alone_lists_every_command() -> None:
    made = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    commands = set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))

    listed = dict(re.findall(r"^  make (\S+) +(\S.*)$", made.stdout, re.MULTILINE))

    assert {"demo", "test", "bench", "lint", "types", "dev", "clean"} <= commands
    assert set(listed) == commands


def test_make_says_which_pythons_will_not_do(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "setup.cfg").touch()
    (tmp_path / "pyproject.toml").touch()
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "make", "touch", "awk"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    old = tools / "python3"
    old.write_text('#!/bin/sh\ncase "$2" in "") exit 0;; *) exit 1;; esac\n')
    old.chmod(0o755)

    made = subprocess.run(
        ["make", "setup"], cwd=tmp_path, env={"PATH": str(tools)}, capture_output=True, text=True, check=False
    )

    assert made.returncode != 0
    assert "No Python 3.11 or newer" in made.stderr
    assert "too old: python3" in made.stderr
    assert "make PYTHON=" in made.stderr


def test_ci_runs_lint_types_and_tests_and_ends_with_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    commands = [line for line in script.read_text().splitlines() if line.startswith("make ")]

    assert os.access(script, os.X_OK)
    assert commands == ["make lint", "make types", "make test"]
