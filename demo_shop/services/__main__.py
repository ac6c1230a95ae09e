"""`python -m demo_shop.services payments --ledger FILE`: one service in a process of its own, until a signal.

It must not know the engine.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import click

from demo_shop.services.catalogue import SERVICES
from demo_shop.services.ledger import Ledger
from demo_shop.services.server import ServiceServer
from demo_shop.services.switches import read_scripts


@click.command()
@click.argument("name", type=click.Choice(sorted(SERVICES)))
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 takes a free one.")
@click.option("--ledger", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The SQLite file.")
@click.option("--scripts", type=click.Path(path_type=Path, exists=True), help="What goes wrong, by order (JSON).")
def serve(name: str, port: int, ledger: Path, scripts: Path | None) -> None:
    """Serve one of the shop's outside services; its address is printed first."""
    kind = SERVICES[name]
    book = Ledger(ledger, honours_keys=kind.honours_keys)
    server = ServiceServer(kind, book, read_scripts(scripts) if scripts else {}, port=port)

    def stop(*_: object) -> None:
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(server.url, flush=True)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    book.close()


if __name__ == "__main__":
    sys.exit(serve())
