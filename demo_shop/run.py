"""One run of the demo, from the first server to the verdict. It conducts, and must not do the others' work itself."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from demo_shop.chaos import FLUSH_ORDERS_MIN, Chaos, KillKind, plan_kills
from demo_shop.evidence import gather
from demo_shop.journal import JOURNAL, accepted_orders, read_journal
from demo_shop.lookout import UNREACHABLE, Lookout
from demo_shop.orders import plan_orders, scripts_of
from demo_shop.processes import ROOT, Supervisor
from demo_shop.report import Board, Outcome, Snapshot, print_outcome, summary, write_json, write_logs
from demo_shop.services.catalogue import SERVICES
from demo_shop.stage import (
    SCHEMA,
    environment_of,
    lookout_of,
    mending,
    start_engine,
    start_services,
    wait_until_up,
    workplace,
)
from demo_shop.tables import fresh_tables
from demo_shop.verdict import judge
from saga.cli import embedded
from saga.cli.embedded.kept import free_port

COORDINATORS = ("coordinator-1", "coordinator-2")
WORKERS = ("worker-1", "worker-2")
SHOPFRONT = "shopfront"

#: Orders a second that come in, and the seconds that a kill needs at the least.
ORDERS_PER_SECOND = 4.0
SECONDS_PER_KILL = 6.0
#: Seconds that runs have to end after the last order and kill.
END_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    orders: int
    kills: int
    seed: int
    lease_seconds: float
    json_path: Path | None

    @property
    def over_seconds(self) -> float:
        """Seconds over which the orders come in."""
        return max(self.orders / ORDERS_PER_SECOND, self.kills * SECONDS_PER_KILL, 1.0)


def run(options: Options, console: Console) -> int:
    """Run the orders, strike the kills, audit, and return the exit code: 0 when nothing is wrong.

    Raises:
        ConfigurationError: the servers cannot be started, or the named database is in use.
        TookTooLong: the processes did not come up.
    """
    with workplace(console) as place:
        outcome = _run_in(place.folder, options, console)
        print_outcome(console, outcome)
        if options.json_path is not None:
            write_json(options.json_path, summary(outcome))
        place.keeps = not outcome.good
    return 0 if outcome.good else 1


def _run_in(folder: Path, options: Options, console: Console) -> Outcome:
    began = time.monotonic()
    planned = plan_orders(options.orders, seed=options.seed, over_seconds=options.over_seconds)
    journal = folder / JOURNAL
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(embedded.servers(ROOT / ".saga"))
        stack.enter_context(fresh_tables(servers, SCHEMA))
        lookout = stack.enter_context(lookout_of(servers))
        supervisor = stack.enter_context(Supervisor(folder))
        environment = {
            **environment_of(servers, lease_seconds=options.lease_seconds),
            **start_services(supervisor, folder, tuple(SERVICES.values()), scripts_of(planned)),
        }
        nodes = start_engine(supervisor, environment, coordinators=COORDINATORS, workers=WORKERS)
        flower_url = _start_flower(supervisor, environment)
        console.print(f"Flower: {flower_url}", highlight=False)
        mended = stack.enter_context(mending(supervisor))
        wait_until_up(lookout, coordinators=COORDINATORS, nodes=tuple(nodes.values()))
        impossible = set()
        if servers.postgres is None:  # the environment named it: it is not ours to stop
            impossible.add(KillKind.DATABASE)
        if options.orders < FLUSH_ORDERS_MIN:
            impossible.add(KillKind.BROKER)
        available = [kind for kind in KillKind if kind not in impossible]
        kinds = plan_kills(options.kills, seed=options.seed, available=available)
        supervisor.start(SHOPFRONT, _shopfront_command(options, journal), environment, kept=False)
        chaos = Chaos(
            kinds,
            lookout=lookout,
            supervisor=supervisor,
            workers=nodes,
            coordinators=COORDINATORS,
            over_seconds=options.over_seconds,
            seed=options.seed,
            database=servers.postgres,
            announce_sale=lambda customers: supervisor.tell(SHOPFRONT, f"sale {customers}"),
        )
        stack.callback(chaos.stop)
        chaos.start()
        complaints = []
        with Board(console, flower_url=flower_url) as board:
            if not _watch(board, journal, lookout, supervisor, chaos, options):
                complaints.append(f"not everything had come to rest {END_SECONDS:g} s after the last order and kill")
        chaos.stop()
        opinions = lookout.opinions()
        mended.set()
        unexpected = supervisor.unexpected_ends()
        # Whatever a worker still has in hand ends here, so that no effect can follow the look at the ledgers.
        supervisor.stop_all()
        verdict = judge(gather(folder, planned, opinions))
        if verdict.findings:
            write_logs(folder / "runs.txt", lookout.logs({found.order for found in verdict.findings}))
    complaints += chaos.complaints
    if verdict.orders < options.orders:
        complaints.append(f"only {verdict.orders} of {options.orders} orders were accepted")
    return Outcome(
        verdict=verdict,
        kills=chaos.kills,
        seed=options.seed,
        lease_seconds=options.lease_seconds,
        wall_seconds=time.monotonic() - began,
        unexpected_ends=unexpected,
        complaints=complaints,
    )


def _start_flower(supervisor: Supervisor, environment: Mapping[str, str]) -> str:
    port = free_port()
    command = [sys.executable, "-m", "celery", "-A", "tasks", "flower", "--address=127.0.0.1", f"--port={port}"]
    supervisor.start("flower", command, environment)
    return f"http://127.0.0.1:{port}"


def _shopfront_command(options: Options, journal: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "demo_shop.shopfront",
        "--orders",
        str(options.orders),
        "--seed",
        str(options.seed),
        "--over",
        str(options.over_seconds),
        "--journal",
        str(journal),
    ]


def _watch(
    board: Board, journal: Path, lookout: Lookout, supervisor: Supervisor, chaos: Chaos, options: Options
) -> bool:
    """Show how things stand until all has come to rest; say whether it did in time."""
    deadline: float | None = None
    while deadline is None or time.monotonic() < deadline:
        entries = read_journal(journal)
        accepted = accepted_orders(entries)
        try:
            statuses, open_work = lookout.statuses(), lookout.open_work()
            queued = lookout.queue_length()
        except UNREACHABLE:
            statuses, open_work, queued = None, 1, None
        board.show(
            Snapshot(
                asked=len({entry["order"] for entry in entries}),
                accepted=len(accepted),
                orders=options.orders,
                statuses=statuses,
                queued=queued,
                kills=tuple(chaos.kills),
                kills_planned=options.kills,
            )
        )
        if chaos.done and not supervisor.children[SHOPFRONT].lives:
            deadline = deadline or time.monotonic() + END_SECONDS
            if statuses is not None and not open_work and not statuses["running"] + statuses["compensating"]:
                return len(accepted) <= statuses.total()
        time.sleep(0.25)
    return False
