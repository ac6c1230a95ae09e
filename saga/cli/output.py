"""What the commands print: tables on a terminal, plain columns in a pipe, or one JSON document. It knows no run.

No password that stands in a URL gets past it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID

import click

_PASSWORD_IN_URL = re.compile(r"(\w[\w+.-]*://[^\s:/@]*):[^\s@]*@")
_PASSWORD_IN_CONNINFO = re.compile(r"\b(password\s*=\s*)('(?:[^'\\]|\\.)*'|\S+)", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """Return the text with three stars for each password of a URL or of a libpq connection string."""
    return _PASSWORD_IN_CONNINFO.sub(r"\1***", _PASSWORD_IN_URL.sub(r"\1:***@", text))


class Output:
    """Prints what a command found: `document` for programs, everything else for people."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def document(self, value: Mapping[str, Any], *, secrets: bool = False) -> None:
        """Print the JSON document, if one is wanted. `secrets` leaves URLs as they are, for whoever starts servers."""
        if self.json:
            text = json.dumps(value, default=_plain, indent=2, ensure_ascii=False)
            click.echo(text if secrets else without_passwords(text))

    def line(self, text: str = "", *, style: str = "", secrets: bool = False) -> None:
        """Print a line for people."""
        if not self.json:
            click.secho(text if secrets else without_passwords(text), **_style(style))

    def note(self, text: str) -> None:
        """Print a remark for people beside the output, on standard error."""
        if not self.json:
            click.secho(without_passwords(text), err=True, **_style("yellow"))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
        """Print rows for people."""
        if self.json:
            return
        cells = [[without_passwords(cell) for cell in row] for row in rows]
        if sys.stdout.isatty():
            from rich import box
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text

            table = Table(*columns, title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
            for row in cells:
                table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
            Console().print(table)
            return
        if title:
            click.echo(title)
        widths = [max(len(row[index]) for row in [list(columns), *cells]) for index in range(len(columns))]
        for row in [list(columns), *cells]:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

    def error(self, kind: str, message: str) -> None:
        """Print an error: a document on standard output where JSON is wanted, else a line on standard error."""
        message = without_passwords(message)
        if self.json:
            click.echo(json.dumps({"error": {"type": kind, "message": message}}, indent=2, ensure_ascii=False))
        else:
            click.secho(f"error: {message}", err=True, **_style("red"))


_COLOURS = {
    "running": "cyan",
    "compensating": "yellow",
    "stalled": "bold red",
    "completed": "green",
    "compensated": "yellow",
    "terminated": "red",
    "succeeded": "green",
    "refused": "bold red",
    "ok": "green",
}


def _style(style: str) -> dict[str, Any]:
    return {"fg": style or None}


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, (set, frozenset, tuple)):
        return list(value)
    raise TypeError(f"cannot print a {type(value).__name__} as JSON")


def age(seconds: float) -> str:
    """Return a duration as people read it: `0.012 s`, `3.4 s`, `12 min`, `3.1 h`, `5 d`."""
    if seconds < 1:
        return f"{max(seconds, 0):.3f} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} d"


def moment(at: datetime) -> str:
    """Return a time in UTC to the second."""
    return at.astimezone().isoformat(sep=" ", timespec="seconds")
