"""The tables: what each means, how they are made, and whether these are the ones this code needs. It reads no run.

| table | a row is |
|---|---|
| coordinator | one start of a coordinator: its lease, up to which task id it surely published; `dead_at` buries it |
| shard | the part of all runs that hash to it: which coordinator owns it, and what its heir has to publish again |
| run | one run, for ever: its address, where it stands, the head of its log; never more than the log says |
| event | one entry of a run's log: append-only, gapless by (run, seq), hash-chained; the only truth |
| task | one attempt that is to be run or is being run, and who claimed it; **no row means finished or fenced** |
| unbroken | one row: since when no crash of Postgres has forgotten claims; unlogged, so that a crash empties it |
| inbox | something that arrived for a run and that no turn has taken yet: starts, outcomes, cancels, operators' acts |
| timer | when a run wants to be woken |
| lock | a run's place in line for a semantic lock, and who holds it |
| incident | a fact that no run can take any more, kept for an operator |

The DDL is in the migrations beside this module, once. The invariants are CHECK and UNIQUE constraints there, and the
log's append-only rule is a grant (the application's role may only INSERT and SELECT) with a trigger behind it.
"""

from __future__ import annotations

import io
import threading
from pathlib import Path

import psycopg
from psycopg import sql

from saga.core.errors import ConfigurationError, SchemaError
from saga.engine.store.connect import Connection, conninfo_of
from saga.engine.store.names import quoted

#: Every revision that this code knows, oldest first. The last one is the one it needs.
REVISIONS = ("0001",)

#: Seconds that an upgrade waits for another upgrade to finish.
_UPGRADE_WAIT_SECONDS = 60

# alembic keeps the environment of a migration in module globals.
_one_upgrade_a_process = threading.Lock()


def grants(schema: str, role: str) -> tuple[str, ...]:
    """Return the statements that give a role what the application needs, and no more.

    The role may not change the log, nor delete a run, a coordinator or a shard.

    Raises:
        ConfigurationError: the schema or the role cannot be a name.
    """
    s = quoted(schema)
    if not role or "\x00" in role:
        raise ConfigurationError(f"the role to grant to is {role!r}: expected the name of a role of Postgres")
    to = '"' + role.replace('"', '""') + '"'
    return (
        f"GRANT USAGE ON SCHEMA {s} TO {to}",
        f"GRANT SELECT ON {s}.alembic_version TO {to}",
        f"GRANT SELECT, INSERT ON {s}.event, {s}.incident TO {to}",
        f"GRANT SELECT, INSERT, UPDATE ON {s}.run, {s}.coordinator TO {to}",
        f"GRANT SELECT, UPDATE ON {s}.shard TO {to}",
        f"GRANT SELECT, INSERT ON {s}.unbroken TO {to}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {s}.task, {s}.inbox, {s}.timer, {s}.lock TO {to}",
        f"GRANT SELECT ON SEQUENCE {s}.task_id_seq TO {to}",
        f"GRANT EXECUTE ON FUNCTION {s}.commit_turns_v1, {s}.turn_locks_v1 TO {to}",
    )


def upgrade(url: str, schema: str, *, grant_to: str | None = None, lock_timeout_seconds: float = 5) -> None:
    """Bring the tables to the newest revision in one transaction, then grant; nothing to do is fine.

    Two upgrades at once run one after the other. `lock_timeout_seconds` bounds every lock on a table, so that an
    upgrade never queues the application behind itself.

    Raises:
        ConfigurationError: the URL, schema or role cannot be what it should.
        SchemaError: the tables are newer than this code.
        sqlalchemy.exc.OperationalError: the server cannot be reached, or a lock could not be had in time.
    """
    from sqlalchemy import create_engine, text
    from sqlalchemy.pool import NullPool

    s = quoted(schema)
    conninfo = conninfo_of(url)
    engine = create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(conninfo, application_name="saga upgrade", connect_timeout=5),
        poolclass=NullPool,
    )
    with _one_upgrade_a_process, engine.begin() as connection:
        connection.execute(text(f"SET LOCAL lock_timeout = {_UPGRADE_WAIT_SECONDS * 1000}"))
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"saga upgrade {schema}"})
        connection.execute(text(f"SET LOCAL lock_timeout = {round(lock_timeout_seconds * 1000)}"))
        found = _revision(connection.connection.dbapi_connection, schema)  # type: ignore[arg-type]
        if found is not None and found not in REVISIONS:
            raise SchemaError(_newer(schema, found))
        # CREATE SCHEMA IF NOT EXISTS would ask for the right to create one even where a DBA has made it.
        exists = connection.scalar(text("SELECT to_regnamespace(:name) IS NOT NULL"), {"name": s})
        before = () if exists else (f"CREATE SCHEMA {s}",)
        after = () if grant_to is None else grants(schema, grant_to)
        _run_alembic(schema, before=before, after=after, connection=connection)
    engine.dispose()


def upgrade_sql(schema: str, *, grant_to: str | None = None) -> str:
    """Return the upgrade of an empty database as one script, for a DBA to read and run.

    Raises:
        ConfigurationError: the schema or the role cannot be a name.
    """
    before = (
        "SET LOCAL lock_timeout = 5000",
        f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}",
    )
    after = () if grant_to is None else grants(schema, grant_to)
    with _one_upgrade_a_process:
        return _run_alembic(schema, before=before, after=after, connection=None)


def check(connection: Connection, schema: str) -> None:
    """Make sure that the tables are the ones this code needs.

    Raises:
        ConfigurationError: the schema's name is not a plain identifier.
        SchemaError: the tables are missing, older or newer than this code, or this role may not read them.
    """
    try:
        found = _revision(connection, schema)
    except psycopg.errors.InsufficientPrivilege as error:
        raise SchemaError(
            f"the role {connection.info.user!r} may not read the tables in schema {schema!r}: "
            f"run `celery -A <app> saga upgrade --grant-to {connection.info.user}` as their owner"
        ) from error
    if found is None:
        raise SchemaError(
            f"the tables are missing: no schema {schema!r} of saga in database {connection.info.dbname!r}; "
            "run `celery -A <app> saga upgrade`"
        )
    if found not in REVISIONS:
        raise SchemaError(_newer(schema, found))
    if found != REVISIONS[-1]:
        raise SchemaError(
            f"the tables in schema {schema!r} are older than this code: found revision {found}, "
            f"expected {REVISIONS[-1]}; run `celery -A <app> saga upgrade`"
        )


def _revision(connection: Connection, schema: str) -> str | None:
    """Return the revision that the tables are at, or None where there are none."""
    s = quoted(schema)
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", (f"{s}.alembic_version",)).fetchone()
    if row is None or not row[0]:
        return None
    row = connection.execute(
        sql.SQL("SELECT version_num FROM {}.alembic_version").format(sql.Identifier(schema))
    ).fetchone()
    return None if row is None else str(row[0])


def _newer(schema: str, found: str) -> str:
    return (
        f"the tables in schema {schema!r} are newer than this code: found revision {found}, "
        f"expected {REVISIONS[-1]}; install the version of saga-on-celery that made them, or a later one"
    )


def _run_alembic(schema: str, *, before: tuple[str, ...], after: tuple[str, ...], connection: object) -> str:
    """Run the migrations on the connection, or print them where there is none; return what was printed."""
    from alembic import command
    from alembic.config import Config

    printed = io.StringIO()
    config = Config(output_buffer=printed, stdout=io.StringIO())
    # configparser takes a percent sign in the path for an interpolation.
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(schema=schema, quoted=quoted(schema), before=before, after=after, connection=connection)
    command.upgrade(config, "head", sql=connection is None)
    return printed.getvalue()
