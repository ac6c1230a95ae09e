"""A scenario as data: what a run is started with, what befalls it, and how it must end. It must not know any process.

People are scripted too: what they do follows what reaches them, so it is the services' scripts that speak for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from demo_shop.services.catalogue import ServiceKind
from demo_shop.services.switches import Script

#: What a completed run's answer says, with the name of its type as `answer`.
Answer = Mapping[str, Any]


def in_words(answer: Answer) -> str:
    """Return an answer as people read it: its type, then what it says."""
    return ", ".join(str(value) if name == "answer" else f"{name} {value}" for name, value in answer.items())


class Moment(StrEnum):
    """Where a cancel met its run."""

    WAIT = "in a wait"
    STEP = "in a step"


@dataclass(frozen=True, slots=True)
class Expected:
    """How a run must end. Only what is written here is compared: of an answer these fields, of a reason this part."""

    status: str
    answer: Answer = field(default_factory=dict)
    cause: str = ""
    reason: str = ""
    cancelled: Moment | None = None

    def __str__(self) -> str:
        details = [in_words(self.answer) or self.reason or self.cause]
        if self.cancelled:
            details.append(f"cancel asked {self.cancelled.value}")
        shown = "; ".join(detail for detail in details if detail)
        return f"{self.status}: {shown}" if shown else self.status


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that may befall a run. With `cancels_when_waiting` its customer cancels as soon as it waits."""

    name: str
    expected: Expected
    script: Script
    given: Mapping[str, Any] = field(default_factory=dict)
    cancels_when_waiting: bool = False


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its saga's name, its services and scenarios, of which the first is the smooth one.

    `in_force` says what the ledgers must show for a run's answer (None: it was undone): the subjects of what stands, by
    service; a service that it does not name must have nothing. Only in `indelible` ones may more stand after an undo.
    """

    name: str
    services: tuple[ServiceKind, ...]
    given: Mapping[str, Any]
    scenarios: tuple[Scenario, ...]
    in_force: Callable[[Answer | None], Mapping[str, tuple[str, ...]]]
    indelible: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run: its key, its scenario, and what it is started with."""

    key: str
    scenario: Scenario
    given: Mapping[str, Any]


def plan(process: Process) -> list[PlannedRun]:
    """Plan a run of each scenario."""
    return [_planned(process, scenario, f"{number:02}") for number, scenario in enumerate(process.scenarios, 1)]


def plan_more(process: Process, count: int) -> list[PlannedRun]:
    """Plan so many further runs of the smooth scenario."""
    return [_planned(process, process.scenarios[0], f"more-{number:02}") for number in range(1, count + 1)]


def _planned(process: Process, scenario: Scenario, suffix: str) -> PlannedRun:
    key = f"{process.name}-{suffix}"
    return PlannedRun(key, scenario, {**process.given, **scenario.given, "id": key})


def completed(answer: str, *, cancelled: Moment | None = None, **said: Any) -> Expected:
    """Expect a completed run and an answer of that type."""
    return Expected("completed", {"answer": answer, **said}, cancelled=cancelled)


def failed(reason: str) -> Expected:
    """Expect a run that was undone because something failed, or somebody said no."""
    return Expected("compensated", cause="failed", reason=reason)


def cancelled(moment: Moment) -> Expected:
    """Expect a run that was undone because its customer cancelled."""
    return Expected("compensated", cause="cancelled", cancelled=moment)
