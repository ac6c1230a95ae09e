"""The engine's tables for one run of a demo. What the runs in them are it must not know.

A demo judges every run that it finds, and its coordinators take over all that they find. So in a database that is not
made for this run it only works where there are no tables yet, and takes its own away at the end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
from psycopg import sql
from sqlalchemy.exc import ProgrammingError

from saga import ConfigurationError
from saga.cli.embedded import Servers
from saga.engine import schema as tables


@contextlib.contextmanager
def fresh_tables(servers: Servers, schema: str) -> Iterator[None]:
    """Make the tables; at the end they are gone, with the database or, in one that stays, by themselves.

    Raises:
        ConfigurationError: the database stays, and has such a schema already; or no schema may be created there.
    """
    if not servers.is_named_database:
        tables.upgrade(servers.owner_url, schema, grant_to=servers.application_role)
        yield
        return
    with psycopg.connect(servers.owner_url, autocommit=True) as connection:
        found = connection.execute("SELECT to_regnamespace(%s) IS NOT NULL", (f'"{schema}"',)).fetchone()
        name, role = connection.info.dbname, connection.info.user
    if found is not None and found[0]:
        raise ConfigurationError(
            f"the database {name} has a schema {schema!r} already, and the role {role} may not create a database for "
            "this run: the demo would take over and judge whatever is in there. "
            f"Drop the schema if an earlier run left it (DROP SCHEMA {schema} CASCADE), name another database in "
            f"SAGA_DATABASE_URL, or let the role create one (ALTER ROLE {role} CREATEDB)"
        )
    try:
        tables.upgrade(servers.owner_url, schema)
    except ProgrammingError as error:
        raise ConfigurationError(
            f"the role {role} may create neither a database nor a schema in {name} ({error.orig}): "
            f"ALTER ROLE {role} CREATEDB, or GRANT CREATE ON DATABASE {name} TO {role}"
        ) from error
    try:
        yield
    finally:
        with psycopg.connect(servers.owner_url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
