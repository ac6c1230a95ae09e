"""The payloads of outcomes and inputs as JSON text, joined and taken apart without decoding what users stored."""

from __future__ import annotations

import json
from uuid import UUID

_VALUE = '"value":'


_PROGRESS = '"progress":'


def wrap(value: str, *, worker: str, ran_seconds: float, progress: str | None = None) -> str:
    """Join an outcome's value (JSON text) with who ran it and how long; `value` comes last, byte for byte.

    `progress` (JSON text) stands in it as a string, so that whatever it holds is not taken for the value.
    """
    told: dict[str, object] = {"worker": worker, "ran_seconds": round(ran_seconds, 6)}
    if progress is not None:
        told["progress"] = progress
    return f"{json.dumps(told)[:-1]}, {_VALUE}{value}}}"


def progress_of(payload: str | None) -> str | None:
    """Return the progress (JSON text) in the payload of an outcome, or of an attempt that was lost."""
    if payload is None or _PROGRESS not in payload:
        return None
    head, value, _ = payload.partition(_VALUE)
    told: dict[str, str] = json.loads(head.rstrip(", ") + "}" if value else head)
    return told.get("progress")


def unwrap(payload: str | None) -> str | None:
    """Return the value of `wrap` as it went in, or None where a payload has none (a lost attempt)."""
    if payload is None:
        return None
    start = payload.find(_VALUE)
    return payload[start + len(_VALUE) : -1] if start >= 0 else None


def json_after(text: str, field: str) -> str:
    """Return the JSON text of an object's last field, byte for byte as it was written; empty where it is missing."""
    start = text.find(f'"{field}":')
    return text[start + len(field) + 3 : -1] if start >= 0 else ""


def found(probe_value: str | None) -> str | None:
    """Return the result (JSON text) that a probe found, or None: no trace now. Its value is `null` or `[result]`."""
    if probe_value is None or probe_value == "null":
        return None
    return probe_value[1:-1]


def companion_input(action_token: UUID, action_input: str, result: str | None) -> str:
    """Build what a compensation or probe gets: the action's token and inputs; `known`: there is a result."""
    known = "true" if result is not None else "false"
    return f'{{"action":"{action_token}","input":{action_input},"known":{known},"result":{result or "null"}}}'
