"""`python -m demo_shop run`: real orders under chaos, and the verdict as the exit code; and the other commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import click
from rich.console import Console


@click.group()
def main() -> None:
    """The shop: real orders through the engine while its processes are killed."""


@main.command()
@click.option("--orders", type=click.IntRange(1), default=200, show_default=True, help="How many orders to place.")
@click.option("--kills", type=click.IntRange(0), default=8, show_default=True, help="How many kills must meet work.")
@click.option("--seed", type=int, default=7, show_default=True, help="What all orders, fates and kills come from.")
@click.option(
    "--lease", "lease_seconds", type=click.FloatRange(1), default=10, show_default=True, help="Of coordinators."
)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Where to write the figures."
)
def run(orders: int, kills: int, seed: int, lease_seconds: float, json_path: Path | None) -> None:
    """Run orders while killing things, then hold every one against the services' ledgers; exit 1 if any is wrong."""
    from demo_shop import run as runs

    options = runs.Options(orders, kills, seed, lease_seconds, json_path)
    _exit_with(lambda console: runs.run(options, console))


_json_option = click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Where to write what each run came to."
)


@main.command()
@_json_option
def ride(json_path: Path | None) -> None:
    """Match rides with drivers in every way, killing a worker and a coordinator meanwhile; exit 1 if any is wrong."""
    from demo_shop.scenarios.conduct import conduct
    from demo_shop.scenarios.rides import RIDE

    _exit_with(lambda console: conduct(RIDE, json_path, console))


@main.command()
@_json_option
def loan(json_path: Path | None) -> None:
    """Grant and refuse loans in every way, killing a worker and a coordinator meanwhile; exit 1 if any is wrong."""
    from demo_shop.scenarios.conduct import conduct
    from demo_shop.scenarios.loans import LOAN

    _exit_with(lambda console: conduct(LOAN, json_path, console))


@main.command()
@_json_option
def food(json_path: Path | None) -> None:
    """Deliver meals in every way, killing a worker and a coordinator meanwhile; exit 1 if any is wrong."""
    from demo_shop.scenarios.conduct import conduct
    from demo_shop.scenarios.meals import FOOD

    _exit_with(lambda console: conduct(FOOD, json_path, console))


@main.command()
@click.option("--orders", type=click.IntRange(1), default=60, show_default=True, help="How many orders come in.")
@click.option("--kills", type=click.IntRange(0), default=5, show_default=True, help="How many kills are struck.")
@click.option("--seed", type=int, default=7, show_default=True, help="What all orders, fates and kills come from.")
@click.option(
    "--patience",
    "patience_seconds",
    type=click.FloatRange(1),
    default=10,
    show_default=True,
    help="Seconds of silence after which an approach gives up a process, a command or a message.",
)
@_json_option
def evolution(orders: int, kills: int, seed: int, patience_seconds: float, json_path: Path | None) -> None:
    """Run the same orders under the same kills in four ways, and compare; exit 1 if the saga lost anything."""
    from demo_shop.evolution import command, harness

    options = harness.Options(orders, kills, seed, patience_seconds)
    _exit_with(lambda console: command.evolve(options, json_path, console))


def _exit_with(make: Callable[[Console], int]) -> NoReturn:
    """Make a run and exit with its code: 2 when it could not be made, 130 when it was interrupted."""
    from demo_shop.processes import interrupt_on_signals
    from demo_shop.waiting import TookTooLong
    from saga import ConfigurationError

    console = Console()
    interrupt_on_signals()
    try:
        sys.exit(make(console))
    except (ConfigurationError, TookTooLong) as error:
        console.print(f"The run could not be made: {error}", style="red", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("Interrupted; everything that was started is stopped.", style="yellow")
        sys.exit(130)


if __name__ == "__main__":
    main()
