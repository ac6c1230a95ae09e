"""`saga upgrade`: bring the tables to what this code needs, or print the SQL for a DBA. It knows no table."""

from __future__ import annotations

import click

from saga.cli.group import Invocation, command, option


@command(
    "upgrade",
    options=[
        option("--sql", is_flag=True, help="Print the SQL for an empty database instead of running it."),
        option("--grant-to", metavar="ROLE", help="Give the application's role what it needs, and no more."),
        option(
            "--database",
            metavar="URL",
            help="The database as its owner, who may create tables; without it, as the application connects.",
        ),
        option(
            "--lock-timeout",
            type=click.FloatRange(0.1, 600),
            default=5.0,
            show_default=True,
            help="Seconds to wait for each lock; beyond, nothing is changed.",
        ),
    ],
    help="Create or upgrade the tables, in one transaction. Safe to run again.",
)
def upgrade_command(
    invocation: Invocation, *, sql: bool, grant_to: str | None, database: str | None, lock_timeout: float
) -> None:
    """Run the migrations or print them."""
    from sqlalchemy.exc import OperationalError, ProgrammingError

    from saga.cli.output import without_passwords
    from saga.core.errors import ConfigurationError
    from saga.engine import schema

    installation = invocation.application.installation
    output = invocation.output
    if sql:
        text = schema.upgrade_sql(installation.schema, grant_to=grant_to)
        output.document({"schema": installation.schema, "sql": text})
        output.line(text, secrets=True)
        return
    url = database or installation.database.url
    try:
        schema.upgrade(url, installation.schema, grant_to=grant_to, lock_timeout_seconds=lock_timeout)
    except OperationalError as error:
        said = str(error.orig).strip().splitlines()[0]
        raise ConfigurationError(
            f"the upgrade of {without_passwords(url)} did not happen, nothing was changed: {said}"
        ) from error
    except ProgrammingError as error:
        said = str(error.orig).strip().splitlines()[0]
        raise ConfigurationError(
            f"the upgrade was refused, nothing was changed: {said}; "
            "run it as the database's owner: --database postgresql://owner@host/name --grant-to APPLICATION_ROLE"
        ) from error
    output.document({"schema": installation.schema, "revision": schema.REVISIONS[-1], "granted_to": grant_to})
    granted = f", granted to {grant_to}" if grant_to else ""
    output.line(f"schema {installation.schema} is at revision {schema.REVISIONS[-1]}{granted}")
