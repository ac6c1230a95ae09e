"""`python -m benchmarks`: measure, print the table, and write the JSON lines and RESULTS.md."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks.record import read

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
PARTS = ("four", "length", "recovery", "soak", "hops", "waiting", "profile")


@click.command()
@click.option("--quick", is_flag=True, help="The smallest size, in about a minute: its figures mean nothing.")
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="Measure only this part; may be repeated.")
@click.option("--seed", type=int, help="What all random pauses come from.")
@click.option("--rounds", type=click.IntRange(1), help="Interleaved rounds.")
@click.option("--sagas", type=click.IntRange(1, 4000), help="Sagas of a backlog.")
@click.option("--kills", type=click.IntRange(1), help="Coordinators to kill.")
@click.option("--soak", "soak_minutes", type=click.FloatRange(0), help="Minutes at 100% CPU without a kill.")
@click.option("--waiting", "waiting_runs", type=click.IntRange(1), help="Runs that wait for a signal.")
@click.option("--cache", "waiting_cache_runs", type=click.IntRange(1), help="Of them, how many are in memory.")
@click.option("--rest", "rest_seconds", type=click.FloatRange(0.1), help="Seconds at rest with them.")
@click.option("--profile/--no-profile", default=None, help="Record with py-spy where the time goes.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Where the JSON lines go.")
@click.option(
    "--results", "results_path", type=click.Path(path_type=Path, dir_okay=False), help="Where RESULTS.md goes."
)
@click.option(
    "--from", "from_path", type=click.Path(path_type=Path, exists=True), help="Measure nothing: write from this file."
)
def main(
    *,
    quick: bool,
    only: tuple[str, ...],
    json_path: Path | None,
    results_path: Path | None,
    from_path: Path | None,
    **chosen: Any,
) -> None:
    """Measure this engine side by side with Celery's chain, and write what it is."""
    console = Console()
    folder = ROOT / ".saga"
    if results_path is None:
        results_path = folder / "bench-quick.md" if quick else HERE / "RESULTS.md"
    try:
        if from_path is not None:
            records = read(from_path)
        else:
            chosen_json = json_path or (folder / "bench-quick.jsonl" if quick else HERE / "results.jsonl")
            _measure(quick, only, chosen, chosen_json, folder, console)
            records = read(chosen_json)
        results_path.write_text(results.write(records))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    for title, rows in (("Speed", results.speed_rows(records)), ("Goals", results.goal_rows(records))):
        _print(console, title, rows)
    console.print(f"written: {results_path}", highlight=False, soft_wrap=True)


def _measure(
    quick: bool, only: tuple[str, ...], chosen: dict[str, Any], json_path: Path, folder: Path, console: Console
) -> None:
    from benchmarks.command import Part, run
    from benchmarks.finish import Stuck
    from benchmarks.plan import FULL, QUICK
    from demo_shop.processes import interrupt_on_signals
    from demo_shop.waiting import TookTooLong
    from saga import ConfigurationError

    plan = replace(QUICK if quick else FULL, **{name: value for name, value in chosen.items() if value is not None})
    interrupt_on_signals()
    try:
        parts = frozenset(Part(name) for name in only or PARTS)
        run(plan, parts=parts, folder=folder, json_path=json_path, console=console)
    except (ConfigurationError, Stuck, TookTooLong) as error:
        console.print(f"The measurement could not be made: {error}", style="red", highlight=False, soft_wrap=True)
        console.print(f"What was measured until then is in {json_path}.", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("Interrupted; everything that was started is stopped.", style="yellow")
        sys.exit(130)


def _print(console: Console, title: str, rows: list[results.Row]) -> None:
    head, *body = rows
    if body:
        table = Table(*head, title=title, title_justify="left")
        for row in body:
            table.add_row(*row)
        console.print(table)


if __name__ == "__main__":
    main()
