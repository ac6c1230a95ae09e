"""The commands: `celery -A tasks saga …`, and the same as `saga -A tasks …`. It must not import what a command needs
before that command runs, since every Celery command imports this module.
"""

from __future__ import annotations

from saga.cli.group import SagaGroup, app_option, pass_to_commands

__all__ = ["main", "saga"]

#: Each command and the module that holds it; imported when the command is called or listed.
COMMANDS = {
    "dev": "saga.cli.dev",
    "coordinator": "saga.cli.coordinator",
    "reap": "saga.cli.reap",
    "start": "saga.cli.start",
    "signal": "saga.cli.signalling",
    "list": "saga.cli.listing",
    "show": "saga.cli.show",
    "export": "saga.cli.export",
    "cancel": "saga.cli.acts",
    "terminate": "saga.cli.acts",
    "retry": "saga.cli.acts",
    "resolve": "saga.cli.acts",
    "doctor": "saga.cli.doctor.command",
    "upgrade": "saga.cli.upgrade",
    "chaos": "saga.cli.killing",
}

saga = SagaGroup(
    "saga",
    COMMANDS,
    callback=pass_to_commands,
    params=[app_option],
    help="Start, look at and repair sagas; run their coordinators.\n\n"
    "Exit codes: 0 done; 1 refused or failed, with the reason; 2 wrong usage. "
    "With --json every command prints one JSON document, errors too.",
)


def main() -> None:
    """Run the commands as the console script `saga`."""
    saga(prog_name="saga", auto_envvar_prefix="CELERY")
