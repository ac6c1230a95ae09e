"""What is unsafe in the settings of the Celery application, and in how its running workers were started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from saga.cli.doctor.check import Checks
from saga.cli.fleet import WorkerNode
from saga.core.attempts import GRACE_SECONDS
from saga.core.events import Direction
from saga.engine.installation import Installation
from saga.engine.outcomes import function_of

#: Content types that run code when they are read, by all their names.
CODE_IN_MESSAGES = frozenset({"pickle", "application/x-python-serialize", "yaml", "application/x-yaml"})
#: How the names of pools begin whose tasks have no time limits (celery#9203 for threads).
POOLS_WITHOUT_LIMITS = ("thread", "gevent", "eventlet", "solo")


@dataclass(frozen=True, slots=True)
class StepTask:
    """A step's Celery task: the hard limit that its step declares, and what the registered task says of itself."""

    name: str
    hard_limit_seconds: float | None
    task_limit_seconds: float | None
    serializer: str = "json"
    acks_late: bool = True
    ignore_result: bool = True


@dataclass(frozen=True, slots=True)
class CeleryFacts:
    """The settings, the steps' tasks, and the workers that answered and consume a queue of the steps."""

    transport: str = "redis"
    transport_options: Mapping[str, Any] = field(default_factory=dict)
    accept_content: tuple[str, ...] = ("json",)
    task_serializer: str = "json"
    task_always_eager: bool = False
    worker_prefetch_multiplier: int = 1
    worker_disable_prefetch: bool = False
    worker_soft_shutdown_timeout: float = 10.0
    worker_pool: str = "prefork"
    priorities: tuple[str, ...] = ()  #: the settings that give messages a priority
    tasks: tuple[StepTask, ...] = ()
    queues: frozenset[str] = frozenset()  #: the queues of the steps
    other_tasks: tuple[str, ...] = ()  #: the team's own tasks that are sent to these
    workers: tuple[WorkerNode, ...] = ()

    @property
    def longest_limit_seconds(self) -> float:
        """The longest hard limit of a step, leaving out those without any."""
        return max((task.hard_limit_seconds for task in self.tasks if task.hard_limit_seconds is not None), default=0.0)


def look(installation: Installation, transport: str, workers: tuple[WorkerNode, ...]) -> CeleryFacts:
    """Read the settings of an application that is finalised."""
    from saga.engine.messages import queue_of

    app = installation.app
    conf = app.conf
    tasks = _step_tasks(installation)
    steps = {task.name for task in tasks}
    queues = {queue_of(app, name) for name in steps}
    others = sorted(name for name in app.tasks if name not in steps and not name.startswith("celery."))
    return CeleryFacts(
        transport=transport,
        transport_options=dict(conf.broker_transport_options or {}),
        accept_content=tuple(str(one) for one in conf.accept_content or ()),
        task_serializer=str(conf.task_serializer),
        task_always_eager=bool(conf.task_always_eager),
        worker_prefetch_multiplier=int(conf.worker_prefetch_multiplier),
        worker_disable_prefetch=bool(conf.worker_disable_prefetch),
        worker_soft_shutdown_timeout=float(conf.worker_soft_shutdown_timeout or 0),
        worker_pool=str(conf.worker_pool),
        priorities=_priorities(conf),
        tasks=tasks,
        queues=frozenset(queues),
        other_tasks=tuple(name for name in others if queue_of(app, name) in queues),
        workers=tuple(worker for worker in workers if queues & set(worker.queues)),
    )


def _step_tasks(installation: Installation) -> tuple[StepTask, ...]:
    found = {}
    suffixes = {Direction.ACTION: "", Direction.COMPENSATION: ".compensate", Direction.PROBE: ".probe"}
    for name, step in installation.definitions.steps.items():
        for direction, suffix in suffixes.items():
            if function_of(step, direction) is None:
                continue
            policy = step.compensation_policy if direction is Direction.COMPENSATION else step.policy
            limit = None if policy.timeout_seconds is None else policy.timeout_seconds + GRACE_SECONDS
            task = installation.app.tasks[name + suffix]
            found[name + suffix] = StepTask(
                name + suffix,
                limit,
                task.time_limit,
                str(task.serializer),
                bool(task.acks_late),
                bool(task.ignore_result),
            )
    return tuple(found.values())


def _priorities(conf: Any) -> tuple[str, ...]:
    found = [name for name in ("task_queue_max_priority", "task_default_priority") if getattr(conf, name) is not None]
    options = conf.broker_transport_options or {}
    found += [
        f"broker_transport_options[{name!r}]" for name in ("priority_steps", "queue_order_strategy") if name in options
    ]
    for queue in conf.task_queues or ():
        arguments = getattr(queue, "queue_arguments", None) or {}
        if "x-max-priority" in arguments or getattr(queue, "max_priority", None) is not None:
            found.append(f"the queue {queue.name}")
    return tuple(found)


CHECKS: Checks[CeleryFacts] = Checks("Celery")


def _accepts_code(facts: CeleryFacts) -> str | None:
    """Refuse content types that run code."""
    bad = sorted(set(facts.accept_content) & CODE_IN_MESSAGES)
    return f"accept_content has {', '.join(bad)}" if bad else None


CHECKS.refuse(
    "D01",
    "`accept_content` with pickle or yaml",
    _accepts_code,
    because="reading such a message runs the code in it: whoever reaches the broker runs code in your workers",
    paste='app.conf.accept_content = ["json"]',
)

CHECKS.refuse(
    "D02",
    "`accept_content` without json",
    lambda facts: (
        f"accept_content is {list(facts.accept_content)}"
        if not {"json", "application/json"} & set(facts.accept_content)
        else None
    ),
    because="the messages of steps are JSON: workers that do not accept it throw them away",
    paste='app.conf.accept_content = ["json"]',
)

CHECKS.refuse(
    "D03",
    "`task_serializer` pickle or yaml",
    lambda facts: f"task_serializer is {facts.task_serializer}" if facts.task_serializer in CODE_IN_MESSAGES else None,
    because="the other tasks on these workers' queues would need workers that accept code in messages",
    paste='app.conf.task_serializer = "json"',
)

CHECKS.refuse(
    "D04",
    "`task_always_eager`",
    lambda facts: "task_always_eager is on" if facts.task_always_eager else None,
    because="tasks would run inside whoever sends them: without a worker, without time limits, inside web requests",
    paste="app.conf.task_always_eager = False  # tests: saga.testing.play(…) runs a saga in memory",
)


def _prefetches(facts: CeleryFacts) -> str | None:
    """Refuse reserving messages ahead, as set or as running workers do it."""
    ahead = [worker for worker in facts.workers if worker.prefetch > worker.concurrency or worker.prefetch == 0]
    if ahead:
        told = ", ".join(
            f"{worker.name} takes {worker.prefetch or 'any number'} for {worker.concurrency}" for worker in ahead
        )
        return f"running workers reserve ahead: {told}"
    if facts.worker_disable_prefetch or facts.worker_prefetch_multiplier == 1:
        return None
    return f"worker_prefetch_multiplier is {facts.worker_prefetch_multiplier}" + (
        " (unlimited)" if facts.worker_prefetch_multiplier == 0 else ""
    )


CHECKS.refuse(
    "D05",
    "`worker_prefetch_multiplier` other than 1 for workers of steps",
    _prefetches,
    because="what a worker has reserved behind a long step no idle worker can run; the run waits for that step",
    paste="app.conf.worker_prefetch_multiplier = 1",
)


def _delivers_again_too_soon(facts: CeleryFacts) -> str | None:
    """Refuse a visibility timeout that a healthy step can outlast."""
    if facts.transport != "redis":
        return None
    timeout = float(facts.transport_options.get("visibility_timeout", 3600))
    longest = facts.longest_limit_seconds
    if timeout > longest:
        return None
    return f"visibility_timeout is {timeout:g} s, the longest hard limit of a step {longest:g} s"


CHECKS.refuse(
    "D06",
    "`visibility_timeout` not above the longest hard limit of a step (Redis)",
    _delivers_again_too_soon,
    because="Redis delivers the message of a step that still runs again; such doubles are dropped, but each costs a "
    "delivery, and they come for ever",
    paste='app.conf.broker_transport_options = {**app.conf.broker_transport_options, "visibility_timeout": SECONDS}',
)


def _lacks(facts: CeleryFacts, option: str) -> str | None:
    """Refuse a Redis without this option."""
    if facts.transport != "redis" or facts.transport_options.get(option):
        return None
    return f"broker_transport_options has no {option}"


CHECKS.refuse(
    "D07",
    "no `socket_timeout` (Redis)",
    lambda facts: _lacks(facts, "socket_timeout"),
    because="a connection that the network has dropped without a word blocks its worker or coordinator for ever",
    paste='app.conf.broker_transport_options = {**app.conf.broker_transport_options, "socket_timeout": 10}',
)

CHECKS.refuse(
    "D08",
    "no `socket_keepalive` (Redis)",
    lambda facts: _lacks(facts, "socket_keepalive"),
    because="idle connections die in firewalls and load balancers, and nobody finds out before the next message",
    paste='app.conf.broker_transport_options = {**app.conf.broker_transport_options, "socket_keepalive": True}',
)

CHECKS.refuse(
    "D09",
    "`retry_on_timeout` (Redis)",
    lambda facts: (
        "broker_transport_options has retry_on_timeout"
        if facts.transport == "redis" and facts.transport_options.get("retry_on_timeout")
        else None
    ),
    because="the driver would send a whole pipeline again after a timeout, and kombu switches its batches off for that",
    paste='app.conf.broker_transport_options.pop("retry_on_timeout", None)',
)

CHECKS.refuse(
    "D10",
    "no `worker_soft_shutdown_timeout`",
    lambda facts: "worker_soft_shutdown_timeout is 0" if facts.worker_soft_shutdown_timeout <= 0 else None,
    because="a deploy that cannot wait cuts running steps off at any line: their outcomes are unknown, and each is "
    "probed or asked again",
    paste="app.conf.worker_soft_shutdown_timeout = 10.0",
)


def _without_limits(pool: str) -> bool:
    words = pool.lower().replace("_", " ").replace(".", " ").replace(":", " ").split()
    return any(word.startswith(POOLS_WITHOUT_LIMITS) for word in words)


def _has_no_time_limits(facts: CeleryFacts) -> str | None:
    """Refuse pools that cannot end a step, as set or as running."""
    running = [worker for worker in facts.workers if _without_limits(worker.pool)]
    if running:
        return "running workers have no time limits: " + ", ".join(f"{one.name} ({one.pool})" for one in running)
    return f"worker_pool is {facts.worker_pool}" if _without_limits(facts.worker_pool) else None


CHECKS.refuse(
    "D11",
    "a worker pool without time limits: threads, gevent, eventlet, solo",
    _has_no_time_limits,
    because="a step that hangs hangs for ever: its lease runs out, another worker runs it beside the first, and the "
    "slot stays lost",
    paste='app.conf.worker_pool = "prefork"  # and no -P on the command line of workers that run steps',
)

CHECKS.refuse(
    "D12",
    "priorities within a queue",
    lambda facts: f"priorities are set by {', '.join(facts.priorities)}" if facts.priorities else None,
    because="messages that others overtake for ever look like lost ones; a priority is a queue of its own",
    paste='app.conf.task_routes = {"payments.*": {"queue": "urgent"}}  # instead of priorities',
)


def _annotates_steps(facts: CeleryFacts) -> str | None:
    """Refuse annotations of steps."""
    changed = [
        task.name
        for task in facts.tasks
        if task.task_limit_seconds != task.hard_limit_seconds
        or task.serializer != "json"
        or not task.acks_late
        or not task.ignore_result
    ]
    return (
        f"task_annotations change {', '.join(changed[:5])}" + (" and more" if changed[5:] else "") if changed else None
    )


CHECKS.refuse(
    "D13",
    "`task_annotations` that change a step's task",
    _annotates_steps,
    because="a step's limits and settings are part of its definition; others end attempts whose lease says they run",
    paste="app.conf.task_annotations = {}  # or leave the steps out; set @step(timeout=…)",
)


def _keeps_needless_copies(facts: CeleryFacts) -> str | None:
    """Advise to keep no copies of messages, where every task of the workers is a step."""
    if facts.transport != "redis" or not facts.transport_options.get("ack_emulation", True):
        return None
    if facts.other_tasks or any(set(worker.queues) - facts.queues for worker in facts.workers):
        return None
    return "nothing but steps is sent to the queues of these workers, and each delivery is kept twice"


CHECKS.advise(
    "D14",
    "`ack_emulation` off for workers that serve steps only (Redis)",
    _keeps_needless_copies,
    because="Postgres knows what is unfinished, so a message that dies with its worker is sent again; the copies that "
    "kombu keeps of all that is delivered are needless for steps, and more than half of a worker's work. "
    "What it costs: any other task that such a worker has taken is lost when the worker dies, acks_late or not",
    paste='app.conf.broker_transport_options = {**app.conf.broker_transport_options, "ack_emulation": False}',
)
