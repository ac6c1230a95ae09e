"""What a person and a script get to see of a comparison: the table and the JSON. It must not judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from demo_shop.evolution.harness import END_SECONDS, Fared, Options
from demo_shop.evolution.kills import AWAY_SECONDS, Struck

_COLUMNS = ("approach", "orders", "lost", "doubled", "half_done", "recovered", "failure_handling_lines")


def print_table(console: Console, fared: Sequence[Fared]) -> None:
    """Print the table, and what is to be known beside it."""
    table = Table(title="The ledgers of the four services against the customers' own file", title_justify="left")
    for column in _COLUMNS:
        first = column == "approach"
        table.add_column(column.replace("_", " "), justify="left" if first else "right", no_wrap=first)
    for one in fared:
        tally = one.tally
        recovered = f"{tally.recovered} of {tally.in_flight}"
        wrong = (str(number) for number in (tally.lost, tally.doubled, tally.half_done))
        table.add_row(one.approach, str(tally.orders), *wrong, recovered, str(one.failure_handling_lines))
    console.print(table)
    for one in fared:
        if not one.settled:
            console.print(f"{one.approach} still had open orders {END_SECONDS:g} s after the last.", style="yellow")
        if one.tally.mail_doubles:
            console.print(f"{one.approach}: {one.tally.mail_doubles} mails went out twice (that service ignores keys).")


def summary(options: Options, fared: Sequence[Fared]) -> dict[str, Any]:
    """Return the comparison as JSON takes it."""
    return {
        "seed": options.seed,
        "settings": {
            "orders": options.orders,
            "kills": options.kills,
            "patience_seconds": options.patience_seconds,
            "over_seconds": options.over_seconds,
            "server_away_seconds": AWAY_SECONDS,
            "end_seconds": END_SECONDS,
        },
        "approaches": [_of(one) for one in fared],
    }


def _of(one: Fared) -> dict[str, Any]:
    figures = asdict(one.tally)
    findings = figures.pop("findings")
    return {
        "approach": one.approach,
        **figures,
        "failure_handling_lines": one.failure_handling_lines,
        "settled": one.settled,
        "settled_after_seconds": round(one.settled_after_seconds, 1),
        "kills": [_kill(struck) for struck in one.struck],
        "findings": list(findings),
    }


def _kill(struck: Struck) -> dict[str, Any]:
    return {
        "at_seconds": round(struck.kill.at_seconds, 2),
        "struck_at_seconds": None if struck.struck_at_seconds is None else round(struck.struck_at_seconds, 2),
        "fault": struck.kill.fault.value,
        "victims": None if struck.victims is None else list(struck.victims),
        "in_flight": sorted(struck.held),
    }
