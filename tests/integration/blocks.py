"""The code blocks of the documents, and a folder to run them in. It does not know what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.py)\n")


def python_blocks(document: Path) -> list[str]:
    """Return the Python blocks of a Markdown document, in order."""
    return _PYTHON.findall(document.read_text())


def write_files(document: Path, folder: Path) -> list[str]:
    """Write each block that opens with `# name.py` under that name; return the names."""
    names = []
    for block in python_blocks(document):
        named = _FILE.match(block)
        if named is not None:
            (folder / named[1]).write_text(block)
            names.append(named[1])
    return names


def run_python(
    *arguments: str, folder: Path, environment: Mapping[str, str] | None = None, seconds: float = 90
) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, as somebody would who had copied the blocks there."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **(environment or {}), "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
