"""The servers of a test session, a fresh database and broker for each test, and the check that no process is left over.

Unit tests use none of it: a unit test that asks for a server is refused.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
import redis

from saga.cli import embedded

ROOT = Path(__file__).resolve().parent.parent
#: Inherited by every process that a test starts, whoever its parent is by then.
SESSION_VARIABLE = "SAGA_TEST_SESSION"
#: What names servers to be used instead of embedded ones; kept as TEST_… while tests run.
SERVER_VARIABLES = ("SAGA_DATABASE_URL", "CELERY_BROKER_URL")
#: Seconds that processes have after the last test to end by themselves.
LEFTOVER_SECONDS = 5.0
#: Schema of the tables in every test's database.
SCHEMA = "saga"

_database_numbers = itertools.count(1)
_leftovers = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def servers() -> Iterator[embedded.Servers]:
    """Postgres and Valkey of this session (one each a worker of pytest-xdist), or those that the environment names."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as environment:
            for name in SERVER_VARIABLES:
                if f"TEST_{name}" in os.environ:
                    environment.setenv(name, os.environ[f"TEST_{name}"])
            started = stack.enter_context(embedded.servers(ROOT / ".saga"))
        yield started


@pytest.fixture(scope="session")
def template_database(servers: embedded.Servers) -> Iterator[str]:
    """The name of an upgraded database that tests copy; it must have no connections."""
    from saga.engine import schema

    made = servers.create_database(f"saga_template_{uuid.uuid4().hex[:8]}")
    schema.upgrade(made.owner_url, SCHEMA, grant_to=servers.application_role)
    yield made.name
    servers.drop_database(made.name)


@pytest.fixture
def empty_database(servers: embedded.Servers) -> Iterator[embedded.Database]:
    """A database of this test's own without any table."""
    made = servers.create_database(f"saga_test_{uuid.uuid4().hex[:8]}")
    yield made
    servers.drop_database(made.name)


@pytest.fixture
def database(servers: embedded.Servers, template_database: str) -> Iterator[embedded.Database]:
    """A database of this test's own with all tables, as `saga upgrade` makes them."""
    from saga.engine.store.membership import Membership

    made = servers.create_database(f"saga_test_{uuid.uuid4().hex[:8]}", template=template_database)
    with psycopg.connect(made.url, autocommit=True) as application:
        Membership(SCHEMA).remember(application)  # a test before this one may have stopped this Postgres hard
    yield made
    servers.drop_database(made.name)


@pytest.fixture
def connection(database: embedded.Database) -> Iterator[psycopg.Connection]:
    """A connection to this test's database, as the application, in autocommit."""
    with psycopg.connect(database.url, autocommit=True) as opened:
        yield opened


@pytest.fixture
def broker_url(servers: embedded.Servers) -> str:
    """An empty broker of this test's own; a broker that the environment names is flushed instead."""
    url = servers.broker_url
    if servers.valkey is not None:
        # More numbers than a test can outlive; 0 is what a careless default would use.
        url = urlsplit(url)._replace(path=f"/{next(_database_numbers) % 63 + 1}").geturl()
    if url.startswith(("redis", "rediss")):
        with redis.Redis.from_url(url) as client:
            client.flushdb()
    return url


def pytest_configure(config: pytest.Config) -> None:
    """Mark this session in the environment, so that its processes can be told from everybody else's.

    The servers that it names are for `servers` only: Celery prefers them to any broker that a test names.
    """
    os.environ.setdefault(SESSION_VARIABLE, uuid.uuid4().hex)
    for name in SERVER_VARIABLES:
        if name in os.environ:
            os.environ[f"TEST_{name}"] = os.environ.pop(name)
    if "TEST_CELERY_BROKER_URL" in os.environ and (config.getoption("numprocesses", None) or 0) > 1:
        raise pytest.UsageError("CELERY_BROKER_URL names one broker, which each test empties: run one process, -n 0")
    config.stash[_leftovers] = []


#: Files that take half a minute or more each.
LONGEST = frozenset({"test_scenarios", "test_benchmarks", "test_demo_shop_run", "test_tutorial", "test_mutants"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use servers, refuse them among the unit tests, and begin with the files that take longest."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)  # processes share the files: none waits for the last
    for item in items:
        if "servers" not in getattr(item, "fixturenames", ()):
            continue
        if item.path.is_relative_to(ROOT / "tests" / "unit"):
            raise pytest.UsageError(f"{item.nodeid} uses a server: unit tests have none; move it to tests/integration")
        item.add_marker(pytest.mark.servers)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, None, None]:
    """Fail a session that leaves a process behind, and end that process."""
    yield
    if hasattr(session.config, "workerinput"):
        return  # pytest-xdist's controller looks for all of its workers' processes
    left = _wait_for_processes()
    if left:
        session.config.stash[_leftovers].extend(left)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the processes that were left behind."""
    for line in config.stash[_leftovers]:
        terminalreporter.write_line(f"LEFT BEHIND by the tests, ended now: {line}", red=True)


def _wait_for_processes() -> list[str]:
    _, left = psutil.wait_procs(_processes_of_session(), timeout=LEFTOVER_SECONDS)
    told = []
    for process in left:
        try:
            told.append(f"{process.pid} {' '.join(process.cmdline())}")
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return told


def _processes_of_session() -> list[psutil.Process]:
    # Children by parentage, and by the environment those that lost their parent; a server may overwrite the latter.
    me = psutil.Process()
    found = set(me.children(recursive=True))
    mark = os.environ[SESSION_VARIABLE]
    own = {me, *me.parents()}
    for process in psutil.process_iter():
        try:
            if process not in own and process.environ().get(SESSION_VARIABLE) == mark:
                found.add(process)
        except (psutil.Error, OSError):
            continue
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
