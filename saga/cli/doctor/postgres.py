"""What is unsafe about Postgres: its version, its durability, the tables, and what the application's role may do."""

from __future__ import annotations

from dataclasses import dataclass

from saga.cli.doctor.check import Checks
from saga.core.errors import ConfigurationError, SchemaError
from saga.engine.database import Psycopg
from saga.engine.installation import Installation

VERSION_MIN = 14

# What a session of this role sees, not what the file says: a role or a database may have settings of its own.
_SETTINGS = """
SELECT current_setting('fsync'), current_setting('synchronous_commit'), current_setting('full_page_writes'),
       current_setting('default_transaction_isolation'), current_setting('autovacuum'),
       current_setting('server_encoding'),
       pg_is_in_recovery() OR current_setting('default_transaction_read_only') = 'on',
       r.rolname, r.rolsuper, r.rolconnlimit, d.datconnlimit, pg_backend_pid(),
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - COALESCE(current_setting('reserved_connections', true), '0')::int
FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()
"""

_RIGHTS = """
SELECT right_asked FROM unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE']) AS right_asked
WHERE has_table_privilege(current_user, to_regclass(%s), right_asked)
"""


@dataclass(frozen=True, slots=True)
class PostgresFacts:
    """Postgres as a session of the application sees it; `silence` says why there is none, and then nothing is known."""

    url: str | None = "postgresql://app@db/shop"  #: without its password; None: none is set, or it is not one
    silence: str | None = None
    version: int = 17
    fsync: str = "on"
    synchronous_commit: str = "on"
    full_page_writes: str = "on"
    default_isolation: str = "read committed"
    autovacuum: str = "on"
    encoding: str = "UTF8"
    read_only: bool = False
    role: str = "app"
    superuser: bool = False
    schema_problem: str | None = None
    event_rights: tuple[str, ...] = ()
    pooled: bool = False  #: somebody stands between: the session that answers is not the one that was opened
    pgbouncer_set: bool = False
    connections_available: int = 97  #: for ordinary roles, in all; the least of what server, database and role allow
    living_coordinators: int = 0


def look(installation: Installation) -> PostgresFacts:
    """Ask the application's database, as the application."""
    from sqlalchemy import make_url

    database = installation.database
    bouncer = bool(installation.app.conf.saga_pgbouncer)
    try:
        url = make_url(database.url).render_as_string(hide_password=True)
    except ConfigurationError as error:
        return PostgresFacts(url=None, silence=str(error), pgbouncer_set=bouncer)
    try:
        with database.connection() as connection:
            return _ask(installation, connection, url)
    except ConfigurationError as error:
        return PostgresFacts(url=url, silence=str(error), pgbouncer_set=bouncer)


def _ask(installation: Installation, connection: Psycopg, url: str) -> PostgresFacts:
    from saga.engine import schema
    from saga.engine.store.names import quoted

    row = connection.execute(_SETTINGS).fetchall()[0]
    problem = None
    try:
        schema.check(connection, installation.schema)
    except SchemaError as error:
        problem = str(error)
    rights: tuple[str, ...] = ()
    living = 0
    if problem is None:
        table = f"{quoted(installation.schema)}.event"
        rights = tuple(right for (right,) in connection.execute(_RIGHTS, (table,)))
        living = sum(one.alive for one in installation.reading.coordinators(connection))
    limits = [limit for limit in (row[9], row[10]) if limit >= 0]
    return PostgresFacts(
        url=url,
        version=connection.info.server_version // 10_000,
        fsync=row[0],
        synchronous_commit=row[1],
        full_page_writes=row[2],
        default_isolation=row[3],
        autovacuum=row[4],
        encoding=row[5],
        read_only=row[6],
        role=row[7],
        superuser=row[8],
        schema_problem=problem,
        event_rights=rights,
        pooled=connection.info.backend_pid != row[11],
        pgbouncer_set=bool(installation.app.conf.saga_pgbouncer),
        connections_available=min([row[12], *limits]),
        living_coordinators=living,
    )


CHECKS: Checks[PostgresFacts] = Checks("Postgres")

CHECKS.refuse(
    "D30",
    "no database is set",
    lambda facts: facts.silence if facts.url is None else None,
    because="the log of every run is in Postgres: without it nothing can be accepted",
    paste='install(app, database="postgresql://app@db.internal/shop")',
)

CHECKS.refuse(
    "D31",
    "the database does not answer",
    lambda facts: facts.silence if facts.url is not None else None,
    because="nothing can be accepted, decided or recorded; workers and coordinators wait for it",
    paste="# start Postgres, open the way to it, or mend the URL given to install(app, database=…)",
)

CHECKS.refuse(
    "D32",
    "Postgres older than 14",
    lambda facts: f"the server is Postgres {facts.version}" if facts.version < VERSION_MIN else None,
    because="it is not maintained any more and never tried with this framework",
    paste="# upgrade to Postgres 14 or newer",
)

CHECKS.refuse(
    "D33",
    "`fsync` off",
    lambda facts: f"fsync is {facts.fsync}" if facts.fsync != "on" else None,
    because="a crash of the machine can lose or corrupt runs that were accepted: no promise holds",
    paste="ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();",
)

CHECKS.refuse(
    "D34",
    "`synchronous_commit` off",
    lambda facts: f"synchronous_commit is {facts.synchronous_commit}" if facts.synchronous_commit == "off" else None,
    because="a claim that a crash forgets lets a step run twice with nobody knowing; "
    "what may be asynchronous says so itself",
    paste="ALTER ROLE app SET synchronous_commit = on;  -- or ALTER SYSTEM",
)

CHECKS.refuse(
    "D35",
    "`full_page_writes` off",
    lambda facts: f"full_page_writes is {facts.full_page_writes}" if facts.full_page_writes != "on" else None,
    because="a crash in the middle of writing a page leaves it torn, and the log with it",
    paste="ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();",
)

CHECKS.refuse(
    "D36",
    "`default_transaction_isolation` other than read committed",
    lambda facts: (
        f"default_transaction_isolation is {facts.default_isolation}"
        if facts.default_isolation != "read committed"
        else None
    ),
    because="the statements are written for READ COMMITTED: under a stricter one they fail with serialization errors "
    "where two processes meet",
    paste="ALTER ROLE app SET default_transaction_isolation = 'read committed';",
)

CHECKS.refuse(
    "D37",
    "tables that are missing, older or newer than the code",
    lambda facts: facts.schema_problem,
    because="statements would fail, or write what other code cannot read",
    paste="celery -A <app> saga upgrade --database postgresql://owner@db.internal/shop --grant-to app",
)

CHECKS.refuse(
    "D38",
    "the application's role is a superuser",
    lambda facts: f"the role {facts.role} is a superuser" if facts.superuser else None,
    because="no grant holds it: a bug or an injection can rewrite the log, and it takes connections kept for repairs",
    paste="CREATE ROLE app LOGIN;  -- then: saga upgrade --database postgresql://owner@… --grant-to app",
)

CHECKS.refuse(
    "D39",
    "the application's role may change the log",
    lambda facts: (
        f"the role {facts.role} may {', '.join(facts.event_rights)} the table event"
        if facts.event_rights and not facts.superuser
        else None
    ),
    because="the log is the only truth about a run and is append-only: INSERT and SELECT are all that is needed",
    paste="REVOKE UPDATE, DELETE, TRUNCATE ON saga.event FROM app;  -- an owner cannot be held: use a role of its own",
)

CHECKS.refuse(
    "D40",
    "a standby, or a role that may only read",
    lambda facts: "the server is in recovery, or default_transaction_read_only is on" if facts.read_only else None,
    because="nothing can be written there",
    paste="install(app, database=…)  # the primary: postgresql://a,b/shop?target_session_attrs=read-write",
)

CHECKS.refuse(
    "D41",
    "`autovacuum` off",
    lambda facts: f"autovacuum is {facts.autovacuum}" if facts.autovacuum != "on" else None,
    because="the inbox and the tasks are small tables with a high turnover: without vacuum they grow, and slow down",
    paste="ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf();",
)

CHECKS.refuse(
    "D42",
    "a database that is not UTF-8",
    lambda facts: f"the database is encoded in {facts.encoding}" if facts.encoding != "UTF8" else None,
    because="values are stored as JSON text in UTF-8; other encodings refuse some of it, and its run stalls",
    paste="CREATE DATABASE shop ENCODING 'UTF8' TEMPLATE template0;",
)
