"""What goes wrong with which order, as a file that the services read. It must not know why, nor draw at random.

A fault speaks of the first so many requests of one operation for one order, so a plan does the same in every run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class FaultKind(StrEnum):
    """What a service does instead of its work."""

    REFUSE = "refuse"  # a declined card, a full van, an undo that fails for good
    SERVER_ERROR = "server_error"  # 500, and nothing was written
    REPLY_LOST = "reply_lost"  # the effect is written, then the connection closes without a reply
    BLIND = "blind"  # a lookup finds nothing, whatever is there


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. It meets the first `times` requests, None for all; a lost reply is waited for `seconds`."""

    operation: str
    kind: FaultKind
    times: int | None = 1
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Script:
    """All that the services are told about one order; the latency is in seconds and meets every request."""

    latency_seconds: float = 0.0
    faults: tuple[Fault, ...] = ()

    def fault_at(self, operation: str, nth: int) -> Fault | None:
        """Return what is wrong with the nth request (from 1) of an operation, or None."""
        for fault in self.faults:
            if fault.operation == operation and (fault.times is None or nth <= fault.times):
                return fault
        return None


def write_scripts(path: Path, scripts: Mapping[str, Script]) -> None:
    """Write the scripts by order id as JSON."""
    path.write_text(json.dumps({order: asdict(script) for order, script in scripts.items()}, indent=1))


def read_scripts(path: Path) -> dict[str, Script]:
    """Read what `write_scripts` wrote."""
    return {
        order: Script(
            latency_seconds=script["latency_seconds"],
            faults=tuple(
                Fault(fault["operation"], FaultKind(fault["kind"]), fault["times"], fault["seconds"])
                for fault in script["faults"]
            ),
        )
        for order, script in json.loads(path.read_text()).items()
    }
