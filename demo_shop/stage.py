"""What every demo runs on: the services, the engine's processes, and their supervision. It must not know what is run.

Each demo starts here what it needs, and waits until it is up.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from demo_shop.evidence import ledger_path
from demo_shop.lookout import Lookout
from demo_shop.processes import ROOT, Supervisor
from demo_shop.services.catalogue import ServiceKind
from demo_shop.services.switches import Script, write_scripts
from demo_shop.waiting import wait_for
from saga.cli.embedded import Servers

SCHEMA = "saga"
QUEUE = "shop"

#: Seconds that processes have to come up.
START_SECONDS = 60.0
#: What there is to look into after a run that was judged.
LEAVES = "The processes' logs, the ledgers, the client's file and the logs of what is wrong"


@dataclass(slots=True)
class Workplace:
    """A folder for logs and ledgers; it is removed at the end unless somebody has to look into it."""

    folder: Path
    keeps: bool = False


@contextlib.contextmanager
def workplace(console: Console, *, prefix: str = "demo-", leaves: str = LEAVES) -> Iterator[Workplace]:
    """Make a folder for one run of a demo; where the run fails, or asks for it, it is kept and named."""
    parent = ROOT / ".saga"
    parent.mkdir(exist_ok=True)
    place = Workplace(Path(tempfile.mkdtemp(prefix=prefix, dir=parent)))
    try:
        yield place
    except KeyboardInterrupt:
        shutil.rmtree(place.folder)
        raise
    except BaseException:
        console.print(f"The processes' logs are in {place.folder}", soft_wrap=True)
        raise
    if place.keeps:
        console.print(f"{leaves} are in {place.folder}", soft_wrap=True)
    else:
        shutil.rmtree(place.folder)


def lookout_of(servers: Servers) -> Lookout:
    """Return whoever looks at the engine on these servers."""
    return Lookout(database_url=servers.database_url, broker_url=servers.broker_url, schema=SCHEMA, queue=QUEUE)


def environment_of(servers: Servers, *, lease_seconds: float) -> dict[str, str]:
    """Return what the engine's processes, and its clients, read from their environment."""
    return {
        "SAGA_DATABASE_URL": servers.database_url,
        "CELERY_BROKER_URL": servers.broker_url,
        "SHOP_LEASE_SECONDS": str(lease_seconds),
    }


def start_services(
    supervisor: Supervisor,
    folder: Path,
    services: Collection[ServiceKind],
    scripts: Mapping[str, Script],
    *,
    hooks_url: str | None = None,
) -> dict[str, str]:
    """Start a process for each service, with a ledger in `folder`, and return their URLs by environment variable.

    `hooks_url` is where they call the shop back.

    Raises:
        TookTooLong: one of them did not say where it listens.
    """
    path = folder / "scripts.json"
    write_scripts(path, scripts)
    for kind in services:
        command = [sys.executable, "-m", "demo_shop.services", kind.name]
        command += ["--ledger", str(ledger_path(folder, kind.name)), "--scripts", str(path)]
        if hooks_url is not None:
            command += ["--hooks", hooks_url]
        supervisor.start(kind.name, command, {}, kept=False)
    return {kind.variable: address_of(supervisor, kind.name) for kind in services}


def address_of(supervisor: Supervisor, name: str) -> str:
    """Return what a server said first of all: its URL.

    Raises:
        TookTooLong: it said nothing.
    """
    log = supervisor.children[name].log
    return wait_for(lambda: log.read_text().split(), what=f"{name} to listen", seconds=START_SECONDS)[0]


def start_engine(
    supervisor: Supervisor, environment: Mapping[str, str], *, coordinators: Sequence[str], workers: Sequence[str]
) -> dict[str, str]:
    """Start coordinators and worker nodes by these names, and return the Celery name of each worker node."""
    celery = [sys.executable, "-m", "celery"]
    for name in coordinators:
        supervisor.start(name, [*celery, "-A", "demo_shop.app", "saga", "coordinator"], environment)
    nodes = {name: f"{name}@{socket.gethostname()}" for name in workers}
    for name, node in nodes.items():
        options = ["--concurrency", "2", "--hostname", node, "--loglevel", "WARNING", "--without-mingle"]
        supervisor.start(name, [*celery, "-A", "tasks", "worker", *options], environment)
    return nodes


def wait_until_up(lookout: Lookout, *, coordinators: Sequence[str], nodes: Collection[str]) -> None:
    """Wait until the coordinators share all shards, and the worker nodes answer.

    Raises:
        TookTooLong: they did not; the message names the logs to read.
    """
    wait_for(
        lambda: len(lookout.coordinators()) == len(coordinators) and not lookout.unowned_shards(),
        what=f"the coordinators to share the shards (see {', '.join(f'{name}.log' for name in coordinators)})",
        seconds=START_SECONDS,
    )
    wait_for(
        lambda: len(lookout.running_on(nodes)) == len(nodes),
        what=f"the worker nodes to answer (see {', '.join(node.partition('@')[0] + '.log' for node in nodes)})",
        seconds=START_SECONDS,
    )


@contextlib.contextmanager
def mending(supervisor: Supervisor) -> Iterator[threading.Event]:
    """Start again whatever ends, until the event that is given is set, or the block is left."""
    stop = threading.Event()

    def mend() -> None:
        while not stop.wait(0.1):
            supervisor.mend()

    thread = threading.Thread(target=mend, name="supervisor", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        stop.set()
        thread.join()
