"""A client that waits for a result while Postgres is away: it waits that out, up to its own time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from celery import Celery

from saga.cli.embedded import Database, Servers
from saga.core.errors import ConfigurationError, DatabaseUnreachable, ResultTimeout, SchemaError
from saga.engine.client import Handle
from saga.engine.installation import DEFAULTS, Installation
from saga.engine.records import Batch
from saga.engine.store.reading import FoundRun
from tests.contract.world import World, change_of, in_thread, new_event, new_run, wait_until
from tests.integration.application import trip
from tests.integration.gateway import Gateway


@pytest.fixture
def way(servers: Servers) -> Iterator[Gateway]:
    """The client's own way to Postgres."""
    at = urlsplit(servers.database_url)
    made = Gateway(at.hostname or "127.0.0.1", at.port or 5432)
    yield made
    made.close()


@pytest.fixture
def client(database: Database, way: Gateway) -> Iterator[Installation]:
    """A client that goes that way."""
    url = urlsplit(database.url)
    behind = url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{way.port}").geturl()
    with installed(behind) as made:
        yield made


@pytest.fixture
def store(database: Database) -> Iterator[World]:
    """The store by another way, to play the coordinator."""
    made = World(database)
    yield made
    for connection in made.opened:
        connection.close()


@contextmanager
def installed(url: str | None) -> Iterator[Installation]:
    """Lend the installation of a client's application."""
    app = Celery("waiting", set_as_current=False)
    app.add_defaults({**DEFAULTS, "saga_database_url": url})
    made = Installation(app)
    yield made
    made.database.dispose()


def handle_of(client: Installation) -> Handle[str]:
    return Handle(client, "trip", "waited-for", definition=trip)


class Played:
    """A run that runs until it is told to complete."""

    def __init__(self, store: World) -> None:
        self._store = store
        self._connection = store.connect()
        self._me = store.coordinator(self._connection)
        self._run = new_run(saga="trip", key="waited-for")
        batch = Batch(runs=[self._run], events=[new_event(self._run.id, 1)])
        store.turning.commit(self._connection, self._me, batch)

    def complete(self) -> None:
        change = replace(change_of(self._run), status="completed", result='"parcel"', ended_at=self._run.started_at)
        self._store.turning.commit(self._connection, self._me, Batch(changes=[change]))


def note_errors(handle: Handle[Any], monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Collect what the looks of a handle raise."""
    find = handle._find
    raised: list[Exception] = []

    def noted() -> FoundRun | None:
        try:
            return find()
        except Exception as error:
            raised.append(error)
            raise

    monkeypatch.setattr(handle, "_find", noted)
    return raised


@pytest.mark.parametrize("looked_before", [False, True])
def test_a_result_is_waited_for_through_an_outage(
    client: Installation, store: World, way: Gateway, monkeypatch: pytest.MonkeyPatch, looked_before: bool
) -> None:
    run, handle = Played(store), handle_of(client)
    if looked_before:  # then there is a connection to lose
        assert handle.status() == "running"
    raised = note_errors(handle, monkeypatch)
    way.shut()

    result = in_thread(handle.result, timeout=60)
    wait_until(lambda: len(raised) >= 3, "it has looked in vain, several times")
    run.complete()
    way.open()

    assert result.result(30) == "parcel"
    assert {type(error) for error in raised} == {DatabaseUnreachable}


def test_a_result_is_waited_for_when_its_connection_breaks_in_the_middle_of_a_look(
    client: Installation, store: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, handle = Played(store), handle_of(client)
    raised = note_errors(handle, monkeypatch)
    find = client.reading.find

    def find_on_a_broken_one(connection: Any, *address: str) -> FoundRun | None:
        if not raised:
            with psycopg.connect(database.url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        return find(connection, *address)

    monkeypatch.setattr(client.reading, "find", find_on_a_broken_one)
    run.complete()

    assert handle.result(timeout=60) == "parcel"
    assert len(raised) == 1
    assert isinstance(raised[0], psycopg.OperationalError)


def test_an_outage_that_lasts_is_told_when_the_time_is_over(client: Installation, way: Gateway) -> None:
    way.shut()

    with pytest.raises(ResultTimeout, match="run trip/waited-for: Postgres does not answer") as caught:
        handle_of(client).result(timeout=0.2)

    assert isinstance(caught.value.__cause__, DatabaseUnreachable)


def test_missing_tables_are_told_at_once(empty_database: Database) -> None:
    with (
        installed(empty_database.url) as client,
        pytest.raises(SchemaError, match="run `celery -A <your app> saga upgrade`"),
    ):
        handle_of(client).result(timeout=20)


def test_a_database_that_is_not_set_is_told_at_once() -> None:
    with installed(None) as client, pytest.raises(ConfigurationError, match="no database is set"):
        handle_of(client).result(timeout=20)
