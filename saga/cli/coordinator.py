"""`saga coordinator`: one coordinator in this process, until SIGTERM hands its shards over. It decides nothing."""

from __future__ import annotations

import logging

import click

from saga.cli.group import Invocation, command, option


@command(
    "coordinator",
    options=[
        option(
            "--loglevel",
            type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
            default="info",
            show_default=True,
            help="What is logged, to standard error.",
        )
    ],
    help="Run a coordinator until SIGTERM or Ctrl-C. Start several to survive the loss of one.",
)
def coordinator_command(invocation: Invocation, *, loglevel: str) -> None:
    """Check that it can work, then serve."""
    from saga.cli.fleet import BrokerSilent, broker_connection
    from saga.engine.coordinator import check_ready, serve

    logging.basicConfig(
        level=loglevel.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )  # to standard error
    application = invocation.application
    check_ready(application.installation)
    try:
        with broker_connection(application.app):
            pass
    except BrokerSilent as error:
        # Not a reason to stay away: timers, undo and reaping go on, and what it cannot publish it keeps.
        logging.getLogger("saga.coordinator").warning("%s; starting anyway", error)
    serve(application.app)
    invocation.output.document({"ended": "handed over"})
