"""`saga dev`: everything on one machine until Ctrl-C: embedded servers, a coordinator, a worker, Flower if present.

It starts processes and restarts what dies; it takes no turn and runs no step itself.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from saga.cli.group import Invocation, command, option
from saga.cli.output import Output
from saga.core.errors import ConfigurationError

if TYPE_CHECKING:
    from saga.cli.embedded import Server, Servers

#: Where the servers' files are, and beside them what `saga chaos` reads.
FOLDER = Path(".saga")
STATE_FILE = "dev.json"
#: Seconds between two looks at the children, and that they have to end by themselves.
LOOK_SECONDS = 0.3
STOP_SECONDS = 10.0
#: A child that dies so often within so many seconds of its start is not started again.
QUICK_DEATHS_MAX = 3
QUICK_SECONDS = 5.0


@dataclass(slots=True)
class Child:
    """A process of ours: each start leads a session of its own, so that Ctrl-C reaches this command alone."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] = field(init=False)
    started_at: float = 0.0
    quick_deaths: int = 0

    def start(self) -> None:
        """Start it, with a pipe whose end tells it that we are gone."""
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment},
            stdin=subprocess.PIPE,
            stdout=sys.stderr.fileno(),
            start_new_session=True,
        )

    def mend(self) -> bool:
        """Start it again if it has ended; say whether it had.

        Raises:
            ConfigurationError: it dies at once, again and again.
        """
        code = self.process.poll()
        if code is None:
            return False
        self.close()
        if code > 0:  # a signal is chaos; an exit code is its own doing
            quick = time.monotonic() - self.started_at < QUICK_SECONDS
            self.quick_deaths = self.quick_deaths + 1 if quick else 0
        if self.quick_deaths >= QUICK_DEATHS_MAX:
            raise ConfigurationError(f"the {self.name} ends at once with exit code {code}: see its messages above")
        self.start()
        return True

    def ask_to_end(self) -> None:
        """Send SIGTERM."""
        with suppress(ProcessLookupError):
            self.process.terminate()

    def close(self) -> None:
        """Kill what is left of it and of its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


@command(
    "dev",
    options=[
        option(
            "--concurrency", type=click.IntRange(1, 64), default=2, show_default=True, help="The worker's children."
        ),
        option("--queues", help="The queues that the worker consumes; without it, the application's."),
        option("--flower/--no-flower", default=None, help="Flower beside it; by default where it is installed."),
        option("--port", type=click.IntRange(0, 65_535), default=0, help="Flower's port; 0 takes a free one."),
    ],
    help="Run everything on this machine until Ctrl-C. Embedded Postgres and broker, the tables, a coordinator, "
    "a worker, and Flower where it is installed.",
)
def dev_command(
    invocation: Invocation, *, concurrency: int, queues: str | None, flower: bool | None, port: int
) -> None:
    """Start the servers and the children, and keep them until told to stop."""
    from saga.cli import embedded
    from saga.engine import schema

    application = invocation.application
    if application.named is None:
        raise ConfigurationError(
            "dev starts processes of its own: name the application with -A, as in `celery -A tasks`"
        )
    if flower is None:
        flower = importlib.util.find_spec("flower") is not None
    stopping = threading.Event()
    with _until_stopped(stopping), ExitStack() as stack:
        servers = stack.enter_context(embedded.servers(FOLDER, keep=True))
        schema.upgrade(servers.owner_url, application.installation.schema, grant_to=servers.application_role)
        children = _children(application.named, servers, concurrency, queues, port if flower else None)
        stack.callback(_end, children)
        stack.callback((FOLDER / STATE_FILE).unlink, missing_ok=True)
        for child in children:
            child.start()
        _write_state(application.named, servers, children)
        _tell(invocation.output, application.named, servers, children)
        while not stopping.wait(LOOK_SECONDS):
            changed = [child.name for child in children if child.mend()]
            changed += [server.name for server in (servers.postgres, servers.valkey) if server and _mend(server)]
            if changed:
                invocation.output.note(f"started again: {', '.join(changed)}")
                _write_state(application.named, servers, children)
    invocation.output.note("ended")


@contextmanager
def _until_stopped(stopping: threading.Event) -> Iterator[None]:
    """Turn Ctrl-C, SIGTERM and a closed terminal into the event."""
    before = {
        number: signal.signal(number, lambda *_: stopping.set())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _children(
    named: str, servers: Servers, concurrency: int, queues: str | None, flower_port: int | None
) -> list[Child]:
    environment = {
        "SAGA_DATABASE_URL": servers.database_url,
        "CELERY_BROKER_URL": servers.broker_url,
        "PYTHONUNBUFFERED": "1",
    }
    program = [sys.executable, "-m", "saga.cli.child", named]
    worker = ["worker", "--loglevel=INFO", f"--concurrency={concurrency}", "--hostname=dev@%h", "--task-events"]
    if queues:
        worker.append(f"--queues={queues}")
    children = [
        Child("coordinator", [*program, "coordinator"], environment),
        Child("worker", [*program, *worker], environment),
    ]
    if flower_port is not None:
        from saga.cli.embedded.kept import free_port

        port = flower_port or free_port()
        # Its buttons can revoke, terminate and call tasks, which sagas must not suffer: without auth it only shows.
        command = [*program, "flower", "--address=127.0.0.1", f"--port={port}"]
        children.append(Child("flower", command, {**environment, "SAGA_FLOWER_URL": f"http://127.0.0.1:{port}"}))
    return children


def _mend(server: Server) -> bool:
    """Start a server of ours again if it has died; say whether it had."""
    try:
        os.kill(server.pid, 0)
    except ProcessLookupError:
        server.start()
        return True
    except PermissionError:
        pass
    return False


def _end(children: list[Child]) -> None:
    # The worker first: what it still records finds a coordinator or waits in the inbox.
    started = [child for child in reversed(children) if hasattr(child, "process")]
    for child in started:
        child.ask_to_end()
    until = time.monotonic() + STOP_SECONDS
    for child in started:
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(max(0.0, until - time.monotonic()))
        child.close()


def _write_state(named: str, servers: Servers, children: list[Child]) -> None:
    state = {
        "pid": os.getpid(),
        "app": named,
        "children": {child.name: child.process.pid for child in children},
        "servers": {
            name: server.pid
            for name, server in (("database", servers.postgres), ("broker", servers.valkey))
            if server is not None
        },
        "database_url": servers.database_url,
        "broker_url": servers.broker_url,
    }
    # Whoever reads it meanwhile sees the old state or the new one, never half of it.
    written = FOLDER / f"{STATE_FILE}.new"
    written.touch(mode=0o600)
    written.write_text(json.dumps(state))
    written.replace(FOLDER / STATE_FILE)


def _tell(output: Output, named: str, servers: Servers, children: list[Child]) -> None:
    urls: dict[str, Any] = {"database_url": servers.database_url, "broker_url": servers.broker_url}
    urls |= {child.name: url for child in children if (url := child.environment.get("SAGA_FLOWER_URL"))}
    output.document({"app": named, **urls, "pids": {child.name: child.process.pid for child in children}}, secrets=True)
    output.line(f"a coordinator and a worker of {named} run; Ctrl-C ends all of it")
    output.line(f"  Postgres  {servers.database_url}", secrets=True)
    output.line(f"  broker    {servers.broker_url}", secrets=True)
    if "flower" in urls:
        output.line(f"  Flower    {urls['flower']}")
    output.line("in another terminal:")
    output.line(
        f"  export SAGA_DATABASE_URL='{servers.database_url}' CELERY_BROKER_URL='{servers.broker_url}'", secrets=True
    )
    output.line(f"  celery -A {named} saga list")
    sys.stdout.flush()
