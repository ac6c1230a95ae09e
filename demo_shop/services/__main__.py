"""`python -m demo_shop.services payments --ledger FILE`: one service in a process of its own, until a signal.

It must not know the engine.
"""

from __future__ import annotations

from pathlib import Path

import click

from demo_shop.services.partners import EVERY_SERVICE
from demo_shop.services.server import ServiceServer
from demo_shop.services.switches import read_scripts


@click.command()
@click.argument("name", type=click.Choice(sorted(EVERY_SERVICE)))
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 takes a free one.")
@click.option("--ledger", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The SQLite file.")
@click.option("--scripts", type=click.Path(path_type=Path, exists=True), help="What befalls each order (JSON).")
@click.option("--hooks", "hooks_url", help="Where the shop is told what it did not ask for.")
def serve(name: str, port: int, ledger: Path, scripts: Path | None, hooks_url: str | None) -> None:
    """Serve one of the shop's outside services; its address is printed first."""
    by_order = read_scripts(scripts) if scripts else {}
    ServiceServer(EVERY_SERVICE[name], ledger, by_order, port=port, hooks_url=hooks_url).serve_until_signal()


if __name__ == "__main__":
    serve()
