"""One command, `ride`, `loan` or `food`: from the first server to the verdict. It conducts, and must not judge."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from demo_shop.chaos import Chaos, KillKind
from demo_shop.evidence import read_ledgers
from demo_shop.lookout import WAITS, Lookout
from demo_shop.processes import ROOT, Supervisor
from demo_shop.report import write_json, write_logs
from demo_shop.scenarios.audit import audit
from demo_shop.scenarios.customers import Customers
from demo_shop.scenarios.report import Outcome, print_outcome, summary
from demo_shop.scenarios.scenario import Moment, PlannedRun, Process, plan, plan_more
from demo_shop.stage import (
    SCHEMA,
    address_of,
    environment_of,
    lookout_of,
    mending,
    start_engine,
    start_services,
    wait_until_up,
    workplace,
)
from demo_shop.tables import fresh_tables
from saga.cli import embedded
from saga.cli.embedded.kept import free_port

COORDINATORS = ("coordinator",)
WORKERS = ("worker",)
DESK = "desk"
KILLS = (KillKind.WORKER, KillKind.COORDINATOR)

#: Seconds that a coordinator may be silent.
LEASE_SECONDS = 4.0
#: Seconds between two customers, and over which the kills are spread.
START_EVERY_SECONDS = 0.35
KILLS_OVER_SECONDS = 4.0
#: Customers who come as long as a kill has not met work yet, at the most.
MORE_MAX = 100
#: Seconds that runs have to end after the last customer and kill.
END_SECONDS = 90.0


def conduct(process: Process, json_path: Path | None, console: Console) -> int:
    """Run the scenarios of a process, kill a worker and a coordinator meanwhile, audit, and return the exit code.

    Raises:
        ConfigurationError: the servers cannot be started.
        TookTooLong: the processes did not come up.
    """
    with workplace(console) as place:
        outcome = _conduct_in(place.folder, process)
        print_outcome(console, outcome)
        if json_path is not None:
            write_json(json_path, summary(outcome))
        place.keeps = not outcome.good
    return 0 if outcome.good else 1


def _conduct_in(folder: Path, process: Process) -> Outcome:
    began = time.monotonic()
    planned, more = plan(process), plan_more(process, MORE_MAX)
    scripts = {run.key: run.scenario.script for run in (*planned, *more)}
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(embedded.servers(ROOT / ".saga"))
        stack.enter_context(fresh_tables(servers, SCHEMA))
        lookout = stack.enter_context(lookout_of(servers))
        supervisor = stack.enter_context(Supervisor(folder))
        environment = environment_of(servers, lease_seconds=LEASE_SECONDS)
        port = free_port()
        supervisor.start(DESK, [sys.executable, "-m", "demo_shop.desk", "--port", str(port)], environment)
        environment |= start_services(
            supervisor, folder, process.services, scripts, hooks_url=f"http://127.0.0.1:{port}"
        )
        nodes = start_engine(supervisor, environment, coordinators=COORDINATORS, workers=WORKERS)
        mended = stack.enter_context(mending(supervisor))
        customers = stack.enter_context(Customers(address_of(supervisor, DESK), process.name))
        wait_until_up(lookout, coordinators=COORDINATORS, nodes=tuple(nodes.values()))
        chaos = Chaos(
            KILLS,
            lookout=lookout,
            supervisor=supervisor,
            workers=nodes,
            coordinators=COORDINATORS,
            over_seconds=KILLS_OVER_SECONDS,
            seed=1,
        )
        stack.callback(chaos.stop)
        chaos.start()
        complaints = []
        if not _serve(customers, planned, more, lookout, chaos):
            complaints.append(f"not everything had come to rest {END_SECONDS:g} s after the last customer and kill")
        chaos.stop()
        told = customers.ask([run.key for run in customers.accepted])
        cancelled = _moments(lookout.before_cancel())
        mended.set()
        unexpected = supervisor.unexpected_ends()
        # Whatever a worker still has in hand ends here, so that no effect can follow the look at the ledgers.
        supervisor.stop_all()
        ledgers = read_ledgers(folder, (kind.name for kind in process.services))
        audited = audit(process, customers.accepted, told=told, cancelled=cancelled, ledgers=ledgers)
        if audited.findings:
            write_logs(folder / "runs.txt", lookout.logs({found.order for found in audited.findings}))
    complaints += chaos.complaints
    return Outcome(
        process=process.name,
        audit=audited,
        kills=chaos.kills,
        wall_seconds=time.monotonic() - began,
        unexpected_ends=unexpected,
        complaints=complaints,
    )


def _serve(
    customers: Customers, planned: Sequence[PlannedRun], more: Sequence[PlannedRun], lookout: Lookout, chaos: Chaos
) -> bool:
    """Let customers come, and cancel, until all has come to rest; say whether it did in time.

    Whoever cancels in a wait does so once the run's log says that it waits. Further customers come for as long as a
    kill has not met work.
    """
    to_come, further = deque(planned), deque(more)
    impatient = {run.key for run in planned if run.scenario.cancels_when_waiting}
    next_at, deadline = time.monotonic(), None
    while deadline is None or time.monotonic() < deadline:
        now = time.monotonic()
        queue = to_come or (further if not chaos.done else None)
        if queue and now >= next_at:
            customers.start(queue.popleft())
            next_at = now + START_EVERY_SECONDS
        if impatient:
            for key in impatient & lookout.waiting():
                customers.cancel(key)
                impatient.discard(key)
        if not to_come and chaos.done:
            deadline = deadline or now + END_SECONDS
            if _at_rest(lookout, len(customers.accepted)):
                return True
        time.sleep(0.05)
    return False


def _at_rest(lookout: Lookout, accepted: int) -> bool:
    statuses = lookout.statuses()
    live = statuses["running"] + statuses["compensating"]
    return not live and statuses.total() >= accepted and not lookout.open_work()


def _moments(before: Mapping[str, str]) -> dict[str, Moment]:
    return {key: Moment.WAIT if kind in WAITS else Moment.STEP for key, kind in before.items()}
