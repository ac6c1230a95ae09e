"""What the log pins of a step when it is asked for: whoever deploys other code meanwhile changes nothing of it.

It is written and read here, as JSON text; it knows no state.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from saga.core.definition import Policy
from saga.core.retry import Retry

_STEP = '{"step":'
_INPUT = ',"input":'


class Close(StrEnum):
    """What becomes of a child when its parent ends before it."""

    WAIT = "wait"  #: the parent waits for it
    CANCEL = "cancel"  #: it is undone
    ABANDON = "abandon"  #: it goes on by itself


@dataclass(frozen=True, slots=True)
class ChildLink:
    """A child run in the place of a task."""

    saga: str
    key: str
    version: int
    timeout_seconds: float | None
    close: Close


@dataclass(frozen=True, slots=True)
class LockLink:
    """A semantic lock in the place of a task."""

    name: str
    wait: bool


Link = ChildLink | LockLink


@dataclass(frozen=True, slots=True)
class Pinned:
    """What the log pins of a step beside its input. `undo` is None where there is no compensation."""

    task: str  #: the Celery task's name
    policy: Policy
    undo: Policy | None = None
    probe: bool = False
    link: Link | None = None
    transactional: bool = False


_pinned: dict[str, Pinned] = {}


def action_payload(pinned: Pinned, given: str) -> str:
    """Return the payload of an ActionScheduled; `given` is the input's JSON text and comes last, byte for byte."""
    return f"{_STEP}{pinned_text(pinned)}{_INPUT}{given}}}"


def read_action(payload: str) -> tuple[Pinned, str]:
    """Read what `action_payload` wrote."""
    pinned, _, given = payload.partition(_INPUT)
    return read_pinned(pinned[len(_STEP) :]), given[:-1]


def pinned_text(pinned: Pinned) -> str:
    """Return what is pinned as JSON text."""
    value: dict[str, Any] = {
        "task": pinned.task,
        "policy": policy_to_json(pinned.policy),
        "undo": policy_to_json(pinned.undo) if pinned.undo else None,
        "probe": pinned.probe,
    }
    if pinned.transactional:
        value["transactional"] = True
    if pinned.link is not None:
        value["child" if isinstance(pinned.link, ChildLink) else "lock"] = asdict(pinned.link)
    return json.dumps(value, separators=(",", ":"))


def read_pinned(text: str) -> Pinned:
    """Read what `pinned_text` wrote; remembered, for it repeats."""
    known = _pinned.get(text)
    if known is None:
        value = json.loads(text)
        link: Link | None = None
        if "child" in value:
            child = value["child"]
            link = ChildLink(**{**child, "close": Close(child["close"])})
        elif "lock" in value:
            link = LockLink(**value["lock"])
        undo = policy_from_json(value["undo"]) if value["undo"] else None
        known = Pinned(
            value["task"],
            policy_from_json(value["policy"]),
            undo,
            value["probe"],
            link,
            value.get("transactional", False),
        )
        if len(_pinned) < 4_096:
            _pinned[text] = known
    return known


def policy_to_json(policy: Policy) -> dict[str, Any]:
    """Return a policy as the JSON object that the log pins."""
    retry = policy.retry
    value = {
        "attempts": retry.attempts,
        "first": retry.first_seconds,
        "factor": retry.factor,
        "max": retry.max_seconds,
        "jitter": retry.jitter,
        "timeout": policy.timeout_seconds,
        "deadline": policy.deadline_seconds,
    }
    if policy.heartbeat_seconds is not None:  # most have none
        value["heartbeat"] = policy.heartbeat_seconds
    return value


def policy_from_json(value: dict[str, Any]) -> Policy:
    """Read what `policy_to_json` wrote."""
    retry = Retry(
        attempts=value["attempts"],
        first_seconds=value["first"],
        factor=value["factor"],
        max_seconds=value["max"],
        jitter=value["jitter"],
    )
    return Policy(
        retry=retry,
        timeout_seconds=value["timeout"],
        deadline_seconds=value["deadline"],
        heartbeat_seconds=value.get("heartbeat"),
    )
