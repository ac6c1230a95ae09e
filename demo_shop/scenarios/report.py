"""What a person and a script get to see of the scenarios: one table, and the JSON. It must not judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from demo_shop.chaos import Kill
from demo_shop.report import kills_table, print_verdict
from demo_shop.scenarios.audit import Audit, Judged
from demo_shop.scenarios.scenario import in_words
from demo_shop.verdict import Wrong


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a command came to."""

    process: str
    audit: Audit
    kills: Sequence[Kill]
    wall_seconds: float
    unexpected_ends: Mapping[str, int] = field(default_factory=dict)
    complaints: Sequence[str] = ()

    @property
    def good(self) -> bool:
        """Say whether nothing at all is complained of."""
        return not self.complaints and not self.audit.findings


def print_outcome(console: Console, outcome: Outcome) -> None:
    """Print the runs, the kills and the verdict."""
    table = Table(
        title=f"{outcome.process}: what each run came to, by its client and the ledgers", title_justify="left"
    )
    for column in ("run", "scenario", "expected", "came to", "ok"):
        table.add_column(column)
    for judged in outcome.audit.runs:
        run = judged.run
        shown = "[green]yes[/]" if judged.good else "[bold red]NO[/]"
        table.add_row(run.key, run.scenario.name, str(run.scenario.expected), _came_to(judged), shown)
    console.print(table)
    console.print(kills_table(outcome.kills))
    good = "every run ended as its scenario says, and the ledgers show just that."
    print_verdict(console, outcome.audit.findings, outcome.complaints, good=good)


def summary(outcome: Outcome) -> dict[str, Any]:
    """Return the outcome as JSON takes it."""
    audit = outcome.audit
    return {
        "process": outcome.process,
        "runs": len(audit.runs),
        "completed": audit.statuses["completed"],
        "compensated": audit.statuses["compensated"],
        "stalled": audit.statuses["stalled"],
        "lost": audit.count(Wrong.LOST),
        "doubled_effects": audit.doubled_effects,
        "late_effects": audit.late_effects,
        "half_done": audit.count(Wrong.HALF_DONE),
        "kills": dict(Counter(kill.kind.value for kill in outcome.kills if kill.counts)),
        "wall_seconds": round(outcome.wall_seconds, 1),
        "unexpected_ends": dict(outcome.unexpected_ends),
        "complaints": list(outcome.complaints),
        "findings": [
            {"key": finding.order, "wrong": finding.wrong.value, "detail": finding.detail} for finding in audit.findings
        ],
        "scenarios": [
            {
                "key": judged.run.key,
                "scenario": judged.run.scenario.name,
                "expected": str(judged.run.scenario.expected),
                "status": judged.told.status,
                "result": judged.told.answer,
                "ok": judged.good,
            }
            for judged in audit.runs
        ],
    }


def _came_to(judged: Judged) -> str:
    told = judged.told
    if told.answer is not None:
        return in_words(told.answer)
    return f"{told.status}: {told.cause}" + (f" ({told.reason})" if told.reason else "")
