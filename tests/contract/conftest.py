"""One database a test, used as the application's role, which owns nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from saga.cli.embedded import Database, Servers
from saga.engine.store.connect import Connection

from .world import World


@pytest.fixture
def world(database: Database) -> Iterator[World]:
    """The store bound to this test's database; every connection that it opened is closed at the end."""
    world = World(database)
    yield world
    for connection in world.opened:
        connection.close()


@pytest.fixture
def connection(world: World) -> Connection:
    """A connection of the application."""
    return world.connect()


@pytest.fixture
def separate_roles(servers: Servers) -> str:
    """The application's role; skips where the environment's one role is application and owner."""
    if servers.application_role is None:
        pytest.skip("SAGA_DATABASE_URL names one role, which owns the tables too")
    return servers.application_role


@pytest.fixture
def servers_role(servers: Servers) -> str | None:
    """Whom an upgrade grants to: the application's role, or None where there is but one role."""
    return servers.application_role
