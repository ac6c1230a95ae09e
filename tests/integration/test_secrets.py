"""Marks in what sagas are given, tell and show, and in the password, are looked for wherever they must not be (I26)."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import re
import threading
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from saga.cli.embedded import Servers
from saga.core.errors import SagaError, UpdateRefused
from saga.core.lifecycle import Status
from saga.engine.client import Handle, start_run
from tests.integration.cli_runs import run
from tests.integration.deployed_secretive import CANARIES, Secret, confiding, hint, question, secretive
from tests.integration.fleet import Fleet

pytestmark = [pytest.mark.chaos]

#: How the functions of each run end, and the run with them.
RUNS: dict[str, tuple[dict[str, str], Status]] = {
    "well": ({}, Status.COMPLETED),
    "again": ({"whisper": "once", "overhear": "once", "note": "once"}, Status.COMPLETED),
    "undone": ({"note": "abort", "unwhisper": "once"}, Status.COMPENSATED),
    "given-up": ({"whisper": "always"}, Status.COMPENSATED),
    "unstorable": ({"whisper": "unstorable"}, Status.COMPENSATED),
    "stuck": ({"note": "always", "unwhisper": "abort"}, Status.STALLED),
    "bug": ({"saga": "bug"}, Status.STALLED),
}
#: A command: what it is called here, its environment and its arguments.
_Asked = tuple[str, Mapping[str, str], list[str]]
_BASE64 = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")


class Monitor:
    """Everything that anybody sends to the broker, from its start to its end; bodies are read, too."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._monitor: Any = self._client.monitor()  # type: ignore[no-untyped-call]
        self._monitor.__enter__()
        self._lines: list[str] = []
        self._thread = threading.Thread(target=self._listen, name="monitor", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(redis.RedisError, OSError, ValueError):
            while True:
                self._lines.append(str(self._monitor.next_command()["command"]))

    def end(self) -> tuple[str, str]:
        """Stop, and return all that was sent: Celery's events, and everything else."""
        self._monitor.__exit__()
        self._thread.join(5)
        self._client.close()
        events = [line for line in self._lines if "celeryev" in line]
        others = [line for line in self._lines if "celeryev" not in line]
        return _with_bodies(events), _with_bodies(others)


def _with_bodies(lines: list[str]) -> str:
    sent = "\n".join(lines)
    return "\n".join([sent, *(_read(found) for found in set(_BASE64.findall(sent)))])


def _read(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode(errors="replace")
    except binascii.Error:
        return ""


@dataclass(frozen=True)
class Heard:
    """What could be read of the runs, and where."""

    texts: dict[str, str]

    def places_of(self, canary: str) -> list[str]:
        """Return where a mark was seen."""
        return [place for place, text in self.texts.items() if CANARIES[canary] in text]


@pytest.fixture(scope="module")
def heard(servers: Servers, template_database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Heard]:
    """Run sagas that are full of secrets to every kind of end, and collect what can be read of that."""
    if servers.postgres is None:
        pytest.skip("SAGA_DATABASE_URL names a server on which no role can be made for this")
    role = f"canary_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(servers.superuser_url, autocommit=True) as superuser:
        superuser.execute(
            f"CREATE ROLE {role} LOGIN PASSWORD '{CANARIES['password']}' IN ROLE {servers.application_role}".encode()
        )
        made = servers.create_database(f"saga_{role}", template=template_database)
        superuser.execute(f"GRANT CONNECT ON DATABASE saga_{role} TO {role}".encode())
    at = urlsplit(made.url)
    url = at._replace(netloc=f"{role}:{CANARIES['password']}@{at.hostname}:{at.port}").geturl()
    broker = servers.broker_url
    if servers.valkey is not None:
        broker = urlsplit(broker)._replace(path="/39").geturl()
    folder: Path = tmp_path_factory.mktemp("secrets")
    fleet = Fleet(replace(made, url=url), broker, folder, SAGA_TEST_BUILD="secretive")
    try:
        yield Heard(_collect(fleet, servers))
    finally:
        fleet.close()
        servers.drop_database(made.name)
        with psycopg.connect(servers.superuser_url, autocommit=True) as superuser:
            superuser.execute(f"DROP ROLE {role}".encode())


def _collect(fleet: Fleet, servers: Servers) -> dict[str, str]:
    with fleet.broker() as client:
        client.flushdb()
    monitor = Monitor(fleet.broker_url)
    fleet.coordinator("c1")
    fleet.worker("w1", "-P", "prefork", "-c", "2", "-E")
    fleet.until_ready()
    handles = {key: _start(fleet, key, moods) for key, (moods, _) in RUNS.items()}
    for key, (_, end) in RUNS.items():
        fleet.ends(handles[key], end)
    texts = {f"the client's error for {key}": _told(handle) for key, handle in handles.items()}
    with psycopg.connect(servers.superuser_url, autocommit=True) as superuser:
        superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s "
            "AND application_name LIKE 'saga%%'",
            (fleet.database.name,),
        )
    fleet.ends(_start(fleet, "after", {}), Status.COMPLETED)
    texts["the client's error for a refused update"] = _confide(fleet)
    fleet.until_told()
    environment = {**fleet.nodes["c1"].environment}
    away = {**environment, "SAGA_TEST_DATABASE": re.sub(r":\d+/", ":1/", fleet.database.url)}
    asked = ["signal", "confiding/asked"]
    commands: list[_Asked] = [
        ("saga list", environment, ["list"]),
        ("saga list --json", environment, ["list", "--json"]),
        ("saga show", environment, ["show", "secretive/stuck"]),
        ("saga show --json", environment, ["show", "secretive/undone", "--json"]),
        ("saga show --payloads", environment, ["show", "secretive/well", "--payloads"]),
        ("saga show confiding", environment, ["show", "confiding/told"]),
        ("saga show confiding --json", environment, ["show", "confiding/told", "--json"]),
        ("saga show confiding --payloads", environment, ["show", "confiding/told", "--payloads", "--json"]),
        ("saga list --where", environment, ["list", "--where", f"mood={CANARIES['attribute']}"]),
        ("saga doctor", environment, ["doctor", "--json"]),
        ("saga start", environment, ["start", "secretive", "--id", "well", "--input", '{"text": "another"}']),
        ("saga list without Postgres", away, ["list"]),
        ("saga coordinator without Postgres", away, ["coordinator"]),
    ]
    in_order: list[_Asked] = [
        ("saga signal", environment, [*asked, "hint", json.dumps(CANARIES["signal"])]),
        ("saga signal, misfit", environment, [*asked, "hint", json.dumps([CANARIES["signal"]])]),
        ("saga signal, refused", environment, [*asked, "question", json.dumps(CANARIES["signal"])]),
        ("saga signal, answered", environment, [*asked, "question", '"and now?"']),
    ]
    with ThreadPoolExecutor(3) as threads:
        signals = threads.submit(lambda: list(map(_said, in_order)))
        texts |= zip([where for where, _, _ in commands], threads.map(_said, commands), strict=True)
        texts |= zip([where for where, _, _ in in_order], signals.result(), strict=True)
    for node in fleet.nodes.values():
        texts[f"the log of {node.name}"] = node.said()
    texts["Celery's events"], texts["the broker's messages"] = monitor.end()
    return texts


def _said(asked: _Asked) -> str:
    """Run a command as a process, and return all that it says."""
    _, env, command = asked
    done = run(*command, env=env, app="tests.integration.application")
    return done.stdout + done.stderr


def _start(fleet: Fleet, key: str, moods: dict[str, str]) -> Handle[Any]:
    text = fleet.installation.codec.encode_saga_input(secretive, Secret(moods=moods))
    return start_run(fleet.installation, secretive, key, text)


def _confide(fleet: Fleet) -> str:
    """Tell one run everything, one signal too many included, and have another wait for that; return what it refused."""
    _, handle = (start_run(fleet.installation, confiding, key, '"Ada"') for key in ("asked", "told"))
    handle.send(hint, CANARIES["signal"])
    handle.send(hint, CANARIES["unread"])
    with pytest.raises(UpdateRefused) as refused:
        handle.update(question, CANARIES["signal"])
    assert handle.update(question, CANARIES["signal"]) == CANARIES["answer"]
    fleet.ends(handle, Status.COMPLETED)
    return f"UpdateRefused: {refused.value}"


def _told(handle: Handle[Any]) -> str:
    try:
        handle.result(timeout=5)
    except SagaError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_what_is_looked_through_is_what_was_said(heard: Heard) -> None:
    assert '"idempotency_key"' in heard.texts["the broker's messages"]
    assert "task-succeeded" in heard.texts["Celery's events"]
    assert "secretive/stuck" in heard.texts["saga list"]
    assert "owns 64 shards" in heard.texts["the log of c1"]
    assert "cannot reach the database" in heard.texts["saga list without Postgres"]
    assert "exists with another input" in heard.texts["saga start"]


def test_what_a_run_is_told_is_shown_only_to_those_who_ask_for_payloads(heard: Heard) -> None:
    assert heard.places_of("signal") == heard.places_of("unread") == ["saga show confiding --payloads"]


def test_what_a_run_answers_is_shown_to_whom_it_answers_and_to_nobody_else(heard: Heard) -> None:
    assert heard.places_of("answer") == ["saga signal, answered"]


@pytest.mark.parametrize("canary", ["state", "attribute"])
def test_what_a_run_shows_is_seen_where_a_run_is_shown_and_nowhere_else(heard: Heard, canary: str) -> None:
    shown = ["saga show confiding", "saga show confiding --json", "saga show confiding --payloads"]

    assert heard.places_of(canary) == shown


def test_why_an_update_was_refused_is_seen_where_failures_are_shown_and_nowhere_else(heard: Heard) -> None:
    shown = ["saga show confiding", "saga show confiding --json", "saga show confiding --payloads"]

    assert heard.places_of("refusal") == ["the client's error for a refused update", *shown, "saga signal, refused"]


@pytest.mark.parametrize("canary", ["input", "result"])
def test_values_are_shown_only_to_those_who_ask_for_payloads(heard: Heard, canary: str) -> None:
    assert heard.places_of(canary) == ["saga show --payloads"]


def test_the_password_of_the_database_is_shown_nowhere(heard: Heard) -> None:
    assert heard.places_of("password") == []


def test_the_text_of_an_error_is_seen_where_failures_are_shown_and_nowhere_else(heard: Heard) -> None:
    told = [f"the client's error for {key}" for key in ("undone", "given-up", "stuck", "bug")]

    # A worker's log and events tell of failed tasks in Celery's own words.
    assert heard.places_of("error") == [*told, "saga show", "saga show --json", "the log of w1", "Celery's events"]
