"""A client whose Postgres is away, or loses its replies: it waits that out, or sends the same again, up to a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from celery import Celery

import saga.engine.database
from saga.cli.embedded import Database, Servers
from saga.core.errors import AcceptanceUnknown, ConfigurationError, DatabaseUnreachable, ResultTimeout, SchemaError
from saga.core.events import EventKind
from saga.engine.client import Handle, start_run
from saga.engine.installation import DEFAULTS, Installation
from saga.engine.records import Batch
from saga.engine.store.reading import FoundRun
from tests.contract.world import World, change_of, in_thread, new_event, new_run, wait_until
from tests.integration.application import Order, trip
from tests.integration.pgwire import Lost, PostgresGateway
from tests.integration.waiting import answer, asking, count, counting

#: What a client sends.
SENT = r"INSERT INTO \S*inbox"


@pytest.fixture
def way(servers: Servers) -> Iterator[PostgresGateway]:
    """The client's own way to Postgres."""
    at = urlsplit(servers.database_url)
    made = PostgresGateway(at.hostname or "127.0.0.1", at.port or 5432)
    yield made
    made.close()


@pytest.fixture
def client(database: Database, way: PostgresGateway) -> Iterator[Installation]:
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

    def __init__(self, store: World, saga: str = "trip", **changes: Any) -> None:
        self._store = store
        self._connection = store.connect()
        self._me = store.coordinator(self._connection)
        self._run = new_run(saga=saga, key="waited-for", **changes)
        batch = Batch(runs=[self._run], events=[new_event(self._run.id, 1)])
        store.turning.commit(self._connection, self._me, batch)

    def answer(self, id: str, answer: str) -> None:
        event = new_event(self._run.id, 2, EventKind.UPDATE_ANSWERED, key=id, payload=f'{{"answer":{answer}}}')
        self._store.turning.commit(self._connection, self._me, Batch(changes=[change_of(self._run)], events=[event]))

    def complete(self) -> None:
        change = replace(change_of(self._run), status="completed", result='"parcel"', ended_at=self._run.started_at)
        self._store.turning.commit(self._connection, self._me, Batch(changes=[change]))


def note_errors(client: Installation, monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Collect what a client's looks at Postgres raise."""
    connection = client.database.connection
    raised: list[Exception] = []

    @contextmanager
    def noted() -> Iterator[psycopg.Connection[Any]]:
        try:
            with connection() as lent:
                yield lent
        except Exception as error:
            raised.append(error)
            raise

    monkeypatch.setattr(client.database, "connection", noted)
    return raised


@pytest.mark.parametrize("looked_before", [False, True])
def test_a_result_is_waited_for_through_an_outage(
    client: Installation, store: World, way: PostgresGateway, monkeypatch: pytest.MonkeyPatch, looked_before: bool
) -> None:
    run, handle = Played(store), handle_of(client)
    if looked_before:  # then there is a connection to lose
        assert handle.status() == "running"
    raised = note_errors(client, monkeypatch)
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
    raised = note_errors(client, monkeypatch)
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


def test_an_answer_is_waited_for_through_an_outage(
    client: Installation, store: World, way: PostgresGateway, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Played(store, "counting")
    raised = note_errors(client, monkeypatch)
    handle = Handle[int](client, "counting", "waited-for", definition=counting)

    told = in_thread(handle.update, count, 3, id="three", timeout=60)
    wait_until(lambda: len(arrived(database)) == 1, "it is sent")
    way.shut()
    wait_until(lambda: len(raised) >= 3, "it has looked in vain, several times")
    run.answer("three", "3")
    way.open()

    assert told.result(30) == 3


def test_an_outage_that_lasts_is_told_when_the_time_is_over(client: Installation, way: PostgresGateway) -> None:
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


# -- what is sent --------------------------------------------------------------------------------------------------


def start(client: Installation, key: str = "sent") -> Handle[Any]:
    return start_run(client, trip, key, client.codec.encode_saga_input(trip, Order({})))


def told(client: Installation) -> Handle[Any]:
    return Handle(client, "asking", "waited-for", definition=asking)


def arrived(database: Database) -> list[tuple[Any, ...]]:
    with psycopg.connect(database.url) as connection:
        return connection.execute("SELECT kind, saga, key, run, dedupe, payload FROM saga.inbox ORDER BY id").fetchall()


SENDING: dict[str, Callable[[Installation], object]] = {
    "start": start,
    "send": lambda client: told(client).send(answer, "yes"),
    "cancel": lambda client: told(client).cancel(),
    "terminate": lambda client: told(client).terminate(),
    "retry": lambda client: told(client).retry(),
}


@pytest.mark.parametrize("lost", Lost)
@pytest.mark.parametrize("what", SENDING)
def test_f19_what_a_client_sends_without_a_reply_is_sent_again_as_it_was(
    client: Installation,
    store: World,
    way: PostgresGateway,
    database: Database,
    caplog: pytest.LogCaptureFixture,
    what: str,
    lost: Lost,
) -> None:
    Played(store, "asking", status="stalled", reason="saga_bug")
    loss = way.lose(lost, SENT)

    SENDING[what](client)

    assert loss.happened == 1
    rows = arrived(database)
    assert len(rows) == (2 if lost is Lost.REPLY else 1)
    assert len(set(rows)) == 1
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("lost", Lost)
def test_f19_what_a_client_reads_without_a_reply_is_read_again(
    client: Installation, store: World, way: PostgresGateway, lost: Lost
) -> None:
    Played(store).complete()
    handle = handle_of(client)
    reading: list[Callable[[], Any]] = [handle.status, handle.history, handle.state, lambda: handle.result(timeout=20)]

    for read in reading:
        loss = way.lose(lost, r"FROM \S*(run|event)\b")
        read()
        assert loss.happened == 1


@pytest.mark.parametrize("gone", [False, True], ids=["silent", "gone"])
def test_f19_a_start_that_is_never_answered_is_told_as_unknown_and_can_be_started_again(
    client: Installation, way: PostgresGateway, database: Database, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    monkeypatch.setattr(saga.engine.database, "AGAIN_SECONDS", 1.0)
    loss = way.lose(Lost.REPLY, SENT, times=1_000)
    starting = in_thread(start, client)
    wait_until(lambda: loss.happened > 0, "it was sent")
    if gone:
        way.shut()

    with pytest.raises(AcceptanceUnknown, match=r"run trip/sent .*start it again with the same id") as unknown:
        starting.result(30)
    way.restore()
    way.open()
    start(client)

    assert isinstance(unknown.value.__cause__, DatabaseUnreachable)
    assert ":***@" in str(unknown.value)
    assert {(kind, key) for kind, _, key, *_ in arrived(database)} == {("RunStarted", "sent")}


def test_f19_a_signal_that_is_never_answered_can_be_sent_again_by_the_id_in_the_message(
    client: Installation, store: World, way: PostgresGateway, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saga.engine.database, "AGAIN_SECONDS", 0.2)
    Played(store, "asking")
    way.lose(Lost.REPLY, SENT, times=1_000)

    with pytest.raises(AcceptanceUnknown, match="send it again with id=") as unknown:
        told(client).send(answer, "yes")
    way.restore()
    told(client).send(answer, "yes", id=str(unknown.value).partition("id='")[2].partition("'")[0])

    assert len(set(arrived(database))) == 1


def test_where_nothing_could_be_sent_a_client_is_told_at_once(
    client: Installation, way: PostgresGateway, database: Database
) -> None:
    way.shut()

    with pytest.raises(DatabaseUnreachable, match="cannot reach the database"):
        start(client)

    assert arrived(database) == []


def test_a_lost_reply_in_a_callers_own_connection_is_the_callers_error(
    client: Installation, way: PostgresGateway, database: Database
) -> None:
    loss = way.lose(Lost.REPLY, SENT, times=2)
    text = client.codec.encode_saga_input(trip, Order({}))

    with psycopg.connect(client.database.url.replace("+psycopg", "")) as own, pytest.raises(psycopg.OperationalError):
        start_run(client, trip, "own", text, own)

    assert loss.happened == 1
    assert arrived(database) == []


def test_a_client_whose_connections_are_all_in_use_is_told_so(
    client: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = client.database.engine(autocommit=True)
    monkeypatch.setattr(engine.pool, "_timeout", 0.05)
    held = [engine.connect() for _ in range(10)]

    with pytest.raises(DatabaseUnreachable, match=r"cannot reach the database .*limit of size"):
        start(client)

    for connection in held:
        connection.close()


def test_f20_a_result_is_waited_for_hardly_longer_than_asked_where_nobody_answers(
    client: Installation, store: World, way: PostgresGateway
) -> None:
    Played(store)
    handle = handle_of(client)
    assert handle.status() == "running"
    way.freeze()
    began = time.monotonic()

    with pytest.raises(ResultTimeout, match="Postgres does not answer"):
        handle.result(timeout=0.5)

    assert time.monotonic() - began < 10  # an answer may otherwise take 40 seconds, and a connection five more
