"""How connections are opened: which URLs, which limits, and what is left to a pooler."""

from __future__ import annotations

import psycopg
import pytest

import saga.engine.store.connect
from saga.core.errors import ConfigurationError
from saga.engine.store.connect import Connection, connect

from .world import World


def settings(connection: Connection, *names: str) -> list[str]:
    return [connection.execute("SELECT current_setting(%s)", (name,)).fetchall()[0][0] for name in names]


def test_a_session_has_its_limits_and_its_isolation(world: World) -> None:
    connection = world.connect("saga:me", statement_timeout_seconds=1.5, lock_timeout_seconds=None)

    assert settings(connection, "application_name", "statement_timeout", "lock_timeout", "enable_seqscan") == [
        "saga:me",
        "1500ms",
        "0",
        "off",
    ]
    assert settings(connection, "transaction_isolation", "jit") == ["read committed", "off"]
    assert connection.autocommit


def test_a_statement_that_takes_too_long_is_ended(world: World) -> None:
    connection = world.connect(statement_timeout_seconds=0.05)

    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(10)")


def test_a_connection_that_is_not_answered_is_given_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = world.connect()
    monkeypatch.setattr(saga.engine.store.connect, "ANSWER_SECONDS", 0.1)

    with pytest.raises(psycopg.OperationalError, match=r"has not answered for 0\.1 s") as given_up:
        connection.execute("SELECT pg_sleep(20)")

    assert given_up.value.sqlstate is None, "nobody knows whether it was executed"
    assert connection.closed


def test_postgres_looks_after_its_side_of_a_session(world: World) -> None:
    probes = settings(world.connect(), "tcp_keepalives_idle", "tcp_keepalives_count", "tcp_user_timeout")

    assert probes == ["5", "3", "10000"]


def test_the_options_of_the_url_are_kept_and_win(world: World) -> None:
    url = world.database.url + "?options=-c%20statement_timeout%3D7000%20-c%20search_path%3Dshop"

    with connect(url, application_name="x", statement_timeout_seconds=1, lock_timeout_seconds=2) as connection:
        assert settings(connection, "statement_timeout", "search_path", "lock_timeout") == ["7s", "shop", "2s"]


def test_nothing_is_asked_of_the_session_behind_a_pooler(world: World) -> None:
    pooled = world.connect(session=False)

    assert settings(pooled, "statement_timeout", "enable_seqscan") == ["0", "on"]
    assert pooled.prepare_threshold is None


def test_urls_of_sqlalchemy_are_understood(world: World) -> None:
    for driver in ("postgresql+psycopg", "postgresql+psycopg2", "postgres"):
        with connect(f"{driver}://" + world.database.url.partition("://")[2], application_name="x") as connection:
            assert settings(connection, "transaction_isolation") == ["read committed"]


@pytest.mark.parametrize("url", ["mysql://localhost/shop", "redis://", "nonsense"])
def test_other_urls_are_refused_with_what_to_set(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected postgresql://"):
        connect(url, application_name="x")
