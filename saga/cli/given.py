"""Values that a command is given as text: JSON, `-` for standard input, or `@file`. What fits is not its to say."""

from __future__ import annotations

import sys
from pathlib import Path

from saga.core.errors import ValueRefused


def read_text(given: str, option: str) -> str:
    """Return the JSON text that an option names.

    Raises:
        ValueRefused: the file cannot be read, or is not UTF-8.
    """
    if given == "-":
        return sys.stdin.read()
    if given.startswith("@"):
        try:
            return Path(given[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueRefused(f"{option} {given}: the file cannot be read: {error}") from None
    return given
