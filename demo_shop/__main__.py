"""`python -m demo_shop run`: real orders under chaos, and the verdict as the exit code."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click
from rich.console import Console

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
    from demo_shop.waiting import TookTooLong
    from saga import ConfigurationError

    console = Console()
    for number in _ENDINGS:
        signal.signal(number, _interrupt)
    try:
        options = runs.Options(orders, kills, seed, lease_seconds, json_path)
        sys.exit(runs.run(options, console))
    except (ConfigurationError, TookTooLong) as error:
        console.print(f"The run could not be made: {error}", style="red", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        console.print("Interrupted; everything that was started is stopped.", style="yellow")
        sys.exit(130)


def _interrupt(*_: object) -> None:
    # A second signal must not cut the stopping short.
    for number in _ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
