"""What befalls which order at the services, as a file that they read. It must not know why, nor draw at random.

A fault speaks of the first so many requests of one operation for one order, so a plan does the same in every run. A
call is what a service tells the shop of its own accord: that a driver has accepted, that a customer wants no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class FaultKind(StrEnum):
    """What a service does instead of its work."""

    REFUSE = "refuse"  # a declined card, a full van, an undo that fails for good
    SERVER_ERROR = "server_error"  # 500, and nothing was written
    REPLY_LOST = "reply_lost"  # the effect is written, then the connection closes without a reply
    BLIND = "blind"  # a lookup finds nothing, whatever is there


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. It meets the first `times` requests, None for all; a lost reply is waited for `seconds`.

    With `about` it meets only what is about that subject, such as one of several drivers.
    """

    operation: str
    kind: FaultKind
    times: int | None = 1
    seconds: float = 0.0
    about: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """What the shop is told once an operation has landed: a POST of its answer and `body` to a path of the shop's.

    `{order}` in the path stands for the order's id. It is made so many seconds after the reply, or `before_reply`, and
    then surely in the middle of the shop's step. With `about` it follows only what is about that subject. A request
    that is repeated is followed by the same call.
    """

    operation: str
    path: str
    body: Mapping[str, Any] = field(default_factory=dict)
    about: str | None = None
    after_seconds: float = 0.0
    before_reply: bool = False


@dataclass(frozen=True, slots=True)
class Script:
    """All that the services are told about one order; the latency is in seconds and meets every request.

    `roster` names those whom a service could send, in its order of preference.
    """

    latency_seconds: float = 0.0
    faults: tuple[Fault, ...] = ()
    calls: tuple[Call, ...] = ()
    roster: tuple[str, ...] = ()

    def fault_at(self, operation: str, nth: int, about: str = "") -> Fault | None:
        """Return what is wrong with the nth request (from 1) of an operation, or None."""
        for fault in self.faults:
            met = fault.operation == operation and fault.about in (None, about)
            if met and (fault.times is None or nth <= fault.times):
                return fault
        return None

    def calls_after(self, operation: str, about: str = "") -> Iterator[tuple[int, Call]]:
        """Give the calls that follow an operation, each with its number."""
        for number, call in enumerate(self.calls, 1):
            if call.operation == operation and call.about in (None, about):
                yield number, call


def write_scripts(path: Path, scripts: Mapping[str, Script]) -> None:
    """Write the scripts by order id as JSON."""
    path.write_text(json.dumps({order: asdict(script) for order, script in scripts.items()}, indent=1))


def read_scripts(path: Path) -> dict[str, Script]:
    """Read what `write_scripts` wrote."""
    return {order: _script(written) for order, written in json.loads(path.read_text()).items()}


def _script(written: dict[str, Any]) -> Script:
    return Script(
        latency_seconds=written["latency_seconds"],
        faults=tuple(Fault(**{**fault, "kind": FaultKind(fault["kind"])}) for fault in written["faults"]),
        calls=tuple(Call(**call) for call in written["calls"]),
        roster=tuple(written["roster"]),
    )
