"""The store as the application's role uses it, which owns nothing, on a database that is emptied after each test.

Celery's side of the contract, its tasks and their limits, needs no server.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest

from saga.cli.embedded import Database, Servers
from saga.engine.store.connect import Connection, connect
from tests.unit.conftest import own_declarations as own_declarations

from .world import World

# Emptying is a tenth of the price of copying the template for each test.
EMPTY = """
DELETE FROM saga.event; DELETE FROM saga.run; DELETE FROM saga.task; DELETE FROM saga.inbox; DELETE FROM saga.timer;
DELETE FROM saga.incident; DELETE FROM saga.lock; ALTER SEQUENCE saga.task_id_seq RESTART;
UPDATE saga.shard SET owner = NULL, epoch = 0, republish_from = NULL, suspect = NULL, strikes = 0;
DELETE FROM saga.coordinator;
"""


@pytest.fixture(scope="session")
def shared_database(servers: Servers, template_database: str) -> Iterator[Database]:
    """A database with all tables, for every test that leaves the tables themselves as they are."""
    made = servers.create_database(f"saga_contract_{uuid.uuid4().hex[:8]}", template=template_database)
    yield made
    servers.drop_database(made.name)


@pytest.fixture
def world(shared_database: Database) -> Iterator[World]:
    """The store on empty tables; every connection that it opened is closed at the end."""
    world = World(shared_database)
    world.membership.remember(world.connect())  # a test in another module may have stopped this Postgres hard
    yield world
    for connection in world.opened:
        connection.close()
    with psycopg.connect(shared_database.owner_url, autocommit=True) as owner:
        owner.execute(EMPTY)


@pytest.fixture
def connection(world: World) -> Connection:
    """A connection of the application."""
    return world.connect()


@pytest.fixture
def servers_role(servers: Servers) -> str | None:
    """Whom an upgrade grants to: the application's role, or None where there is but one role."""
    return servers.application_role


@pytest.fixture
def separate_roles(servers_role: str | None) -> str:
    """The application's role; skips where the environment's one role is application and owner."""
    if servers_role is None:
        pytest.skip("SAGA_DATABASE_URL names one role, which owns the tables too")
    return servers_role


@pytest.fixture
def superuser(world: World, servers: Servers) -> Connection:
    """A connection to the same database that may set what only a superuser may."""
    if servers.postgres is None:
        pytest.skip("SAGA_DATABASE_URL names a server that is not ours to change")
    url = servers.superuser_url.rpartition("/")[0] + "/" + world.database.name
    connection = connect(url, application_name="superuser")
    world.opened.append(connection)
    return connection
