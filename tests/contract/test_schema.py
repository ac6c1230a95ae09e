"""The tables: made twice, by two at once or by a DBA; refused when missing or newer; closed to what the log forbids."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.exc import OperationalError

from saga.cli.embedded import Database
from saga.core.errors import ConfigurationError, SchemaError
from saga.core.events import TERMINAL
from saga.core.lifecycle import ENDED, Status
from saga.engine import schema
from saga.engine.records import SHARDS
from saga.engine.store.connect import Connection, connect
from saga.engine.store.names import channel_of, quoted

from .world import World, new_run

LONG_NAME = "s" * 63


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    """The store on a database of this test's own: here the tables themselves are changed."""
    world = World(database)
    yield world
    for connection in world.opened:
        connection.close()


def structure(connection: Connection, name: str) -> list[tuple[object, ...]]:
    """Read columns, constraints, indexes, grants and functions of a schema."""
    return connection.execute(
        """
        SELECT 'column', table_name, column_name, data_type, column_default, is_nullable
            FROM information_schema.columns WHERE table_schema = %(name)s
        UNION ALL SELECT 'constraint', c.conrelid::regclass::text, c.conname, pg_get_constraintdef(c.oid), NULL, NULL
            FROM pg_constraint c WHERE c.connamespace = %(name)s::regnamespace
        UNION ALL SELECT 'index', tablename, indexname, indexdef, NULL, NULL
            FROM pg_indexes WHERE schemaname = %(name)s
        UNION ALL SELECT 'grant', table_name, grantee, privilege_type, NULL, NULL
            FROM information_schema.role_table_grants WHERE table_schema = %(name)s
        UNION ALL SELECT 'function', p.proname, p.proacl::text, p.prosrc, NULL, NULL
            FROM pg_proc p WHERE p.pronamespace = %(name)s::regnamespace
        ORDER BY 1, 2, 3, 4
        """,
        {"name": name},
    ).fetchall()


def test_the_revisions_that_the_code_knows_are_the_migrations_that_there_are() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)

    assert tuple(revision.revision for revision in reversed(list(script.walk_revisions()))) == schema.REVISIONS


def test_the_tables_fit_the_code(world: World, connection: Connection) -> None:
    rules = " ".join(str(row) for row in structure(connection, "saga"))
    status_check = next(str(row[3]) for row in structure(connection, "saga") if row[2] == "run_status_check")
    ended_check = next(str(row[3]) for row in structure(connection, "saga") if row[2] == "run_ended_when_it_says_so")
    one_end = next(str(row[3]) for row in structure(connection, "saga") if row[2] == "event_one_end")

    assert {status for status in Status if f"'{status}'" in status_check} == set(Status)
    assert status_check.count("::text,") + 1 == len(Status)
    assert {status for status in Status if f"'{status}'" in ended_check} == ENDED
    assert all(f"'{kind}'" in one_end for kind in TERMINAL)
    assert one_end.count("::text,") + 1 == len(TERMINAL)
    assert f"BETWEEN 0 AND {SHARDS - 1}" in rules or f"<= {SHARDS - 1}" in rules
    assert connection.execute("SELECT count(*), min(id), max(id) FROM saga.shard").fetchall() == [
        (SHARDS, 0, SHARDS - 1)
    ]


def test_an_upgrade_twice_changes_nothing(database: Database, world: World) -> None:
    owner = world.connect_as_owner()
    before = structure(owner, "saga")

    schema.upgrade(database.owner_url, "saga")
    schema.upgrade("postgresql+psycopg://" + database.owner_url.partition("://")[2], "saga")

    assert structure(owner, "saga") == before


def test_two_upgrades_at_once_make_the_tables_once(empty_database: Database) -> None:
    program = "import sys; from saga.engine import schema; schema.upgrade(sys.argv[1], 'saga')"
    command = [sys.executable, "-c", program, empty_database.owner_url]
    with psycopg.connect(empty_database.owner_url) as other:
        # Both wait for this third one, so that they surely meet.
        other.execute("SELECT pg_advisory_xact_lock(hashtext('saga upgrade saga'))")
        upgrades = [subprocess.Popen(command) for _ in range(2)]
        with psycopg.connect(empty_database.owner_url, autocommit=True) as watcher:
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while watcher.execute(waiting).fetchall() != [(2,)]:
                assert all(upgrade.poll() is None for upgrade in upgrades)

    assert [upgrade.wait(timeout=30) for upgrade in upgrades] == [0, 0]
    with connect(empty_database.owner_url, application_name="contract") as connection:
        schema.check(connection, "saga")


def test_the_script_for_a_dba_makes_the_same_tables(
    database: Database, empty_database: Database, world: World, separate_roles: str
) -> None:
    script = schema.upgrade_sql("saga", grant_to=separate_roles)

    with psycopg.connect(empty_database.owner_url, autocommit=True) as dba:
        dba.execute(script.encode())  # the simple protocol, statement by statement, as psql does
    with connect(empty_database.owner_url, application_name="contract") as made:
        assert structure(made, "saga") == structure(world.connect_as_owner(), "saga")
    with connect(empty_database.url, application_name="contract") as connection:
        schema.check(connection, "saga")


def test_a_script_has_its_own_transaction_and_a_lock_timeout() -> None:
    lines = [line for line in schema.upgrade_sql("shop", grant_to='odd"role').splitlines() if line]

    assert lines[0] == "BEGIN;"
    assert lines[1].startswith("SET LOCAL lock_timeout")
    assert lines[-1] == "COMMIT;"
    assert any('TO "odd""role"' in line for line in lines)
    assert not any("saga." in line for line in lines)


@pytest.mark.parametrize("name", ["Shop", LONG_NAME, "s$1"])
def test_any_plain_identifier_can_be_the_schema(servers_role: str | None, empty_database: Database, name: str) -> None:
    schema.upgrade(empty_database.owner_url, name, grant_to=servers_role)

    with connect(empty_database.url, application_name="contract") as connection:
        schema.check(connection, name)
    assert len(channel_of(name)) < 64


@pytest.mark.parametrize("name", ["", "1st", "a b", 'a"b', "a;b", "a'b", "pg_saga", "s" * 64, "schön", "a%b", "a.b"])
def test_other_names_are_refused_before_anything_is_sent(name: str) -> None:
    with pytest.raises(ConfigurationError, match="saga_schema"):
        quoted(name)


@pytest.mark.parametrize("role", ["", "a\x00b"])
def test_a_role_that_can_be_none_is_refused(role: str) -> None:
    with pytest.raises(ConfigurationError, match="role"):
        schema.grants("saga", role)


def test_an_upgrade_for_a_role_that_does_not_exist_makes_nothing(empty_database: Database) -> None:
    with pytest.raises(Exception, match="does not exist"):
        schema.upgrade(empty_database.owner_url, "saga", grant_to="nobody_at_all")

    with (
        connect(empty_database.owner_url, application_name="contract") as connection,
        pytest.raises(SchemaError, match="missing"),
    ):
        schema.check(connection, "saga")


def test_missing_tables_are_told_with_the_command(empty_database: Database) -> None:
    with (
        connect(empty_database.url, application_name="contract") as connection,
        pytest.raises(SchemaError, match=r"missing.*`celery -A <app> saga upgrade`"),
    ):
        schema.check(connection, "saga")


def test_newer_tables_are_told_and_not_upgraded(world: World, database: Database, connection: Connection) -> None:
    world.connect_as_owner().execute("UPDATE saga.alembic_version SET version_num = '0999'")

    with pytest.raises(SchemaError, match="newer than this code: found revision 0999"):
        schema.check(connection, "saga")
    with pytest.raises(SchemaError, match="newer than this code"):
        schema.upgrade(database.owner_url, "saga")


def test_older_tables_are_told_with_the_command(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "REVISIONS", (*schema.REVISIONS, "0999"))

    with pytest.raises(SchemaError, match=r"older than this code.*saga upgrade"):
        schema.check(connection, "saga")


def test_tables_that_the_role_may_not_read_are_told(world: World, connection: Connection, separate_roles: str) -> None:
    world.connect_as_owner().execute(f'REVOKE ALL ON SCHEMA saga FROM "{separate_roles}"'.encode())

    with pytest.raises(SchemaError, match=r"may not read.*--grant-to"):
        schema.check(connection, "saga")


def test_an_upgrade_of_a_database_that_is_not_there_says_so() -> None:
    with pytest.raises(OperationalError):
        schema.upgrade("postgresql://nobody@127.0.0.1:1/nowhere", "saga")


CHANGES = ["UPDATE saga.event SET payload = 'x'", "DELETE FROM saga.event", "TRUNCATE saga.event"]


@pytest.mark.parametrize("change", CHANGES)
def test_the_application_cannot_change_the_log(
    world: World, connection: Connection, separate_roles: str, change: str
) -> None:
    run = world.start(connection, world.coordinator(connection)).run

    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
        connection.execute(change.encode())

    assert len(world.turning.events(connection, run.id)) == 1


@pytest.mark.parametrize("change", CHANGES)
def test_not_even_with_every_grant(world: World, connection: Connection, separate_roles: str, change: str) -> None:
    world.start(connection, world.coordinator(connection))
    world.connect_as_owner().execute(f'GRANT ALL ON saga.event TO "{separate_roles}"'.encode())

    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
        connection.execute(change.encode())


def test_the_owner_may_delete_whole_runs_for_retention(world: World, connection: Connection) -> None:
    run = world.start(connection, world.coordinator(connection)).run

    world.connect_as_owner().execute("DELETE FROM saga.event WHERE run = %s", (run.id,))

    assert world.turning.events(connection, run.id) == []


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM saga.run",
        "DELETE FROM saga.coordinator",
        "DELETE FROM saga.shard",
        "UPDATE saga.incident SET kind = 'x'",
        "UPDATE saga.alembic_version SET version_num = 'x'",
        "CREATE TABLE saga.mine (id integer)",
        "ALTER TABLE saga.event DISABLE TRIGGER ALL",
    ],
)
def test_the_application_may_do_no_more_than_it_needs(
    connection: Connection, separate_roles: str, statement: str
) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.encode())


def test_an_address_belongs_to_one_run_for_ever(world: World, connection: Connection) -> None:
    owner = world.connect_as_owner()
    run = world.start(connection, world.coordinator(connection)).run
    again = new_run(key=run.key)

    with pytest.raises(psycopg.errors.UniqueViolation, match="run_address"):
        owner.execute(
            "INSERT INTO saga.run (id, saga, key, shard, version, build, status, head, digest, input_digest, input, "
            "started_at) SELECT %s, saga, key, shard, version, build, status, head, digest, input_digest, input, "
            "started_at FROM saga.run",
            (again.id,),
        )
