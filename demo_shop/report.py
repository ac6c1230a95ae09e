"""What a person and a script get to see: the live table, the verdict in words, and the JSON. It must not judge."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from demo_shop.chaos import Kill, KillKind
from demo_shop.verdict import Finding, Verdict

#: Seconds between two plain lines where there is no terminal.
LINE_SECONDS = 5.0

_STATUSES = ("running", "compensating", "completed", "compensated", "stalled")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the live table shows; None where database or broker could not be asked."""

    asked: int
    accepted: int
    orders: int
    statuses: Counter[str] | None
    queued: int | None
    kills: Sequence[Kill]
    kills_planned: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a run came to."""

    verdict: Verdict
    kills: Sequence[Kill]
    seed: int
    lease_seconds: float
    wall_seconds: float
    unexpected_ends: Mapping[str, int] = field(default_factory=dict)
    complaints: Sequence[str] = ()

    @property
    def good(self) -> bool:
        """Say whether nothing at all is complained of."""
        return not self.complaints and not self.verdict.complaints


class Board:
    """Shows snapshots: as one live table on a terminal, as a plain line now and then elsewhere."""

    def __init__(self, console: Console, *, flower_url: str) -> None:
        self._console = console
        self._flower_url = flower_url
        self._began = time.monotonic()
        self._line_due = 0.0
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Show how things stand."""
        seconds = time.monotonic() - self._began
        if self._live is not None:
            self._live.update(_table(snapshot, seconds, self._flower_url))
        elif seconds >= self._line_due:
            self._line_due = seconds + LINE_SECONDS
            self._console.print(_line(snapshot, seconds), highlight=False, soft_wrap=True)


def _counts(statuses: Counter[str] | None) -> list[str]:
    return ["-" if statuses is None else str(statuses[status]) for status in _STATUSES]


def _line(snapshot: Snapshot, seconds: float) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in zip(_STATUSES, _counts(snapshot.statuses), strict=True))
    counted = sum(kill.counts for kill in snapshot.kills)
    last = f"; last: {snapshot.kills[-1].kind.value} with {snapshot.kills[-1].held}" if snapshot.kills else ""
    return (
        f"{seconds:5.0f} s  {snapshot.accepted}/{snapshot.orders} orders accepted: {counts}; "
        f"{counted}/{snapshot.kills_planned} kills{last}"
    )


def _table(snapshot: Snapshot, seconds: float, flower_url: str) -> Group:
    orders = Table(title=f"Orders, {seconds:.0f} s", title_justify="left")
    for column in ("asked", "accepted", *_STATUSES, "queued messages"):
        orders.add_column(column, justify="right")
    queued = "-" if snapshot.queued is None else str(snapshot.queued)
    orders.add_row(
        str(snapshot.asked),
        f"{snapshot.accepted}/{snapshot.orders}",
        *_counts(snapshot.statuses),
        queued,
    )
    return Group(orders, kills_table(snapshot.kills, snapshot.kills_planned), Text(f"Flower: {flower_url}"))


def kills_table(kills: Sequence[Kill], planned: int | None = None) -> Table:
    """Return the kills as a table: what each met, and how long it took what it met to go on."""
    counted = sum(kill.counts for kill in kills)
    table = Table(title=f"Kills, {counted} of {counted if planned is None else planned}", title_justify="left")
    for column in ("kind", "victim", "held", "runs that went on", "slowest"):
        table.add_column(column)
    for kill in kills:
        resumed = kill.resumed_after_seconds
        table.add_row(
            kill.kind.value,
            kill.victim,
            kill.held if kill.counts else f"{kill.held} (not counted, repeated)",
            f"{len(resumed)}/{len(kill.runs)}",
            f"{max(resumed.values()):.1f} s" if resumed else "",
        )
    return table


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Print the kills, the figures and the verdict."""
    console.print(kills_table(outcome.kills))
    if outcome.kills:
        console.print("Kills overlap: the next one may set back the runs that the last one held.\n", style="dim")
    figures = Table(title="The ledgers of the four services against the client's own file", title_justify="left")
    figures.add_column("what")
    figures.add_column("how many", justify="right")
    for name, value in summary(outcome).items():
        shown = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)
        if name not in {"findings", "complaints", "kill_records", "recovery_seconds_by_kind"}:
            figures.add_row(name.replace("_", " "), shown)
    console.print(figures)
    good = "every accepted order is done in full, undone in full, or stalled where that was planted."
    print_verdict(console, outcome.verdict.findings, (*outcome.verdict.complaints, *outcome.complaints), good=good)


def print_verdict(console: Console, findings: Sequence[Finding], complaints: Sequence[str], *, good: str) -> None:
    """Print all that is wrong or, where nothing is, what is good."""
    for finding in findings:
        console.print(f"{finding.order}: {finding.wrong.value}: {finding.detail}", style="red", highlight=False)
    for complaint in complaints:
        console.print(f"- {complaint}", style="red", highlight=False)
    if findings or complaints:
        console.print("BAD: see above.", style="bold red")
    else:
        console.print(f"GOOD: {good}", style="bold green")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write what a demo came to; the folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def write_logs(path: Path, logs: Mapping[str, Sequence[str]]) -> None:
    """Write the logs of runs, for whoever has to find out what went wrong."""
    path.write_text("".join(f"{key}\n" + "".join(f"    {line}\n" for line in lines) for key, lines in logs.items()))


def summary(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as JSON takes it."""
    verdict = outcome.verdict
    counted = [kill for kill in outcome.kills if kill.counts]
    return {
        "orders": verdict.orders,
        "completed": verdict.completed,
        "compensated": verdict.compensated,
        "stalled": verdict.stalled,
        "stalled_planted": verdict.stalled_planted,
        "lost": verdict.lost,
        "doubled_effects": verdict.doubled_effects,
        "half_done": verdict.half_done,
        "late_effects": verdict.late_effects,
        "duplicate_requests": verdict.duplicate_requests,
        "mail_doubles": verdict.mail_doubles,
        "kills": dict(Counter(kill.kind.value for kill in counted)),
        "recovery_seconds": recovery_seconds(counted),
        "recovery_seconds_by_kind": {
            kind.value: recovery_seconds([kill for kill in counted if kill.kind is kind])
            for kind in KillKind
            if any(kill.kind is kind for kill in counted)
        },
        "lease_seconds": outcome.lease_seconds,
        "wall_seconds": round(outcome.wall_seconds, 1),
        "hits": dict(verdict.hits),
        "unexpected_ends": dict(outcome.unexpected_ends),
        "seed": outcome.seed,
        "complaints": [*verdict.complaints, *outcome.complaints],
        "findings": [
            {"order": finding.order, "wrong": finding.wrong.value, "detail": finding.detail}
            for finding in verdict.findings
        ],
        "kill_records": [_record(kill) for kill in outcome.kills],
    }


def recovery_seconds(kills: Sequence[Kill]) -> dict[str, float | None]:
    """Return p50, p99 and maximum of the seconds from a kill to the next event of each run that its victim held."""
    seconds = sorted(after for kill in kills for after in kill.resumed_after_seconds.values())
    if not seconds:
        return {"p50": None, "p99": None, "max": None}

    def at(fraction: float) -> float:
        return round(seconds[min(len(seconds) - 1, int(fraction * len(seconds)))], 2)

    return {"p50": at(0.5), "p99": at(0.99), "max": round(seconds[-1], 2)}


def _record(kill: Kill) -> dict[str, Any]:
    return {
        "kind": kill.kind.value,
        "victim": kill.victim,
        "at": kill.at,
        "counted": kill.counts,
        "held": {"claims": kill.claims, "runs": len(kill.runs), "messages": kill.messages},
        "held_orders": [run.key for run in kill.runs],
        "recovery_seconds": {
            run.key: round(kill.resumed_after_seconds[run.id], 2)
            for run in kill.runs
            if run.id in kill.resumed_after_seconds
        },
    }
