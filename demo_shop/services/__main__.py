"""`python -m demo_shop.services payments --ledger FILE`: one service in a process of its own, until a signal.

It must not know the engine.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import click

from demo_shop.services.caller import Caller
from demo_shop.services.ledger import Ledger
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
    kind = EVERY_SERVICE[name]
    book = Ledger(ledger, honours_keys=kind.honours_keys)
    caller = None if hooks_url is None else Caller(hooks_url)
    server = ServiceServer(kind, book, read_scripts(scripts) if scripts else {}, port=port, caller=caller)

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
