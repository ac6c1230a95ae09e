"""The demo in a database that is named, with a role that may create no other: its tables are its own there."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest

from demo_shop.tables import fresh_tables
from saga import ConfigurationError
from saga.cli import embedded
from saga.engine import schema as tables
from tests.integration.cli_runs import ROOT


@pytest.fixture
def named_url(servers: embedded.Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A database whose owner may not create databases, named in the environment."""
    if servers.postgres is None:
        pytest.skip("SAGA_DATABASE_URL names a server on which no role can be made for this")
    role = name = f"modest_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(servers.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {role} LOGIN NOCREATEDB PASSWORD 'modest'".encode())
        superuser.execute(f"CREATE DATABASE {name} OWNER {role}".encode())
    at = urlsplit(servers.superuser_url)
    url = at._replace(netloc=f"{role}:modest@{at.hostname}:{at.port}", path=f"/{name}").geturl()
    monkeypatch.setenv("SAGA_DATABASE_URL", url)
    yield url
    with psycopg.connect(servers.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        superuser.execute(f"DROP ROLE {role}".encode())


def _has_tables(url: str) -> bool:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT to_regclass('saga.run') IS NOT NULL").fetchone()
    return row is not None and bool(row[0])


def test_a_database_that_is_named_itself_has_the_tables_for_one_run_of_the_demo(named_url: str) -> None:
    for _ in range(2):
        with embedded.servers(ROOT / ".saga", valkey=False) as found:
            assert found.database_url == named_url
            with fresh_tables(found, "saga"):
                assert _has_tables(named_url)
        assert not _has_tables(named_url)


def test_a_role_that_may_create_nothing_is_told_what_it_needs(named_url: str, servers: embedded.Servers) -> None:
    at = urlsplit(named_url)
    with psycopg.connect(servers.superuser_url, autocommit=True) as superuser:
        superuser.execute(f"ALTER DATABASE {at.path[1:]} OWNER TO CURRENT_USER".encode())

    with (
        embedded.servers(ROOT / ".saga", valkey=False) as found,
        pytest.raises(ConfigurationError, match=f"GRANT CREATE ON DATABASE {at.path[1:]} TO {at.username}"),
        fresh_tables(found, "saga"),
    ):
        pass


def test_the_demo_refuses_a_database_in_which_there_are_runs_already(named_url: str) -> None:
    tables.upgrade(named_url, "saga")

    ended = subprocess.run(
        [sys.executable, "-m", "demo_shop", "run", "--orders", "5", "--kills", "0"],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 2
    assert "has a schema 'saga' already" in ended.stdout
    assert "DROP SCHEMA saga CASCADE" in ended.stdout
    assert _has_tables(named_url)
