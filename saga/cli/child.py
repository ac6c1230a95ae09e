"""A process of `saga dev`: the application against the servers that the environment names, until its parent is gone.

`python -m saga.cli.child APP coordinator|worker|flower …`. It ends when the other end of its standard input is closed.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

#: Seconds in which a child ends by itself when its parent is gone.
END_SECONDS = 10.0


def _die_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(END_SECONDS)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main(named: str, role: str, *options: str) -> None:
    """Load the application, point it at the servers, and play the role."""
    from celery.app.utils import find_app

    from saga.cli.application import Application

    threading.Thread(target=_die_with_parent, name="saga-parent", daemon=True).start()
    app = find_app(named)
    app.conf.saga_database_url = os.environ["SAGA_DATABASE_URL"]
    app.conf.broker_url = os.environ["CELERY_BROKER_URL"]
    application = Application.load(app, named)
    if role == "coordinator":
        from saga.engine.coordinator import serve

        logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        serve(application.app)
    else:
        application.app.start([role, *options])


if __name__ == "__main__":
    main(*sys.argv[1:])
