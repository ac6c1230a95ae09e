"""What type checkers say about users' code: files that must pass, and files in which just the marked lines must fail.

A mark is `# mypy: code; pyright: rule` at the end of a line; several codes are parted by commas.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PASSES = sorted((HERE / "passes").glob("*.py"))
FAILS = sorted((HERE / "fails").glob("*.py"))

_MARK = re.compile(r"# mypy: (?P<mypy>[\w, -]+); pyright: (?P<pyright>[\w, ]+)$")
_MYPY_LINE = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): error: .*\[(?P<code>[\w-]+)\]$")

#: What a checker said: codes by file name and line.
Said = dict[str, dict[int, set[str]]]


@pytest.mark.timeout(300)
def test_mypy_passes_what_is_right_and_fails_exactly_the_marked_lines() -> None:
    said = run_mypy([*PASSES, *FAILS])

    assert said == marked("mypy")


@pytest.mark.timeout(300)
def test_pyright_passes_what_is_right_and_fails_exactly_the_marked_lines() -> None:
    said = run_pyright([*PASSES, *FAILS])

    assert said == marked("pyright")


def run_mypy(files: list[Path]) -> Said:
    """Return the errors of mypy --strict."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-pretty", "--no-error-summary", *map(str, files)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    said: Said = defaultdict(lambda: defaultdict(set))
    for line in ended.stdout.splitlines():
        match = _MYPY_LINE.match(line)
        assert match is not None or ": note: " in line, line
        if match is not None:
            said[Path(match["file"]).name][int(match["line"])].add(match["code"])
    return said


def run_pyright(files: list[Path]) -> Said:
    """Return the errors of pyright; its own Node.js comes with the extra `pyright[nodejs]`."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, *map(str, files)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout.startswith("{"), ended.stdout + ended.stderr
    said: Said = defaultdict(lambda: defaultdict(set))
    for found in json.loads(ended.stdout)["generalDiagnostics"]:
        if found["severity"] == "error":
            said[Path(found["file"]).name][found["range"]["start"]["line"] + 1].add(found["rule"])
    return said


def marked(checker: str) -> Said:
    """Return what the files expect."""
    wanted: Said = {}
    for file in FAILS:
        lines = enumerate(file.read_text().splitlines(), start=1)
        wanted[file.name] = {
            number: {code.strip() for code in match[checker].split(",")}
            for number, line in lines
            if (match := _MARK.search(line))
        }
        assert wanted[file.name], f"{file.name} expects no error at all"
    return wanted
