"""What a Celery worker does with one message: claim, run, record, and only then let it be acknowledged.

It knows one attempt. What follows from its outcome is the coordinator's to decide.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
import sqlalchemy
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from saga.core.attempts import GRACE_SECONDS
from saga.core.current import Attempt, attempt_now
from saga.core.definition import AnyStep, place_of
from saga.core.errors import Abort, DefinitionError, RetryLater, describe
from saga.core.events import Direction, EventKind, split_task_name
from saga.core.outcome import wrap
from saga.engine.crashpoints import Point, reach
from saga.engine.heart import Heart
from saga.engine.installation import Installation
from saga.engine.outcomes import Ended, function_of, run_attempt, unknown
from saga.engine.pauses import pauses
from saga.engine.records import Claim
from saga.engine.renewing import Renewer
from saga.engine.store.connect import Connection, answered_within, connect, seconds_left
from saga.engine.store.failures import CommitUnknown

log = logging.getLogger("saga.worker")
T = TypeVar("T")

#: Seconds between two tries to reach Postgres: the first, and the longest.
RETRY_SECONDS = (0.05, 2.0)
#: Seconds for which a worker that is told to end at once tells how its attempt ended; then the lease tells.
LEAVING_SECONDS = 5.0

#: What is no answer: Postgres is away, or its tables are (a worker that burnt its messages on that would be worse).
_NO_ANSWER = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.UndefinedTable,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.ReadOnlySqlTransaction,  # a standby answers: of writes, and of unlogged tables
    psycopg.errors.FeatureNotSupported,
    CommitUnknown,
)

_connections: dict[tuple[int, str], Connection] = {}


class _Never(BaseException):
    """Raised by nobody."""


def register_tasks(installation: Installation) -> None:
    """Register a Celery task for every action, compensation and probe that has none yet.

    Raises:
        DefinitionError: a task of the team's own has a step's name.
    """
    app = installation.app
    for name, step in installation.definitions.steps.items():
        for direction, suffix in (
            (Direction.ACTION, ""),
            (Direction.COMPENSATION, ".compensate"),
            (Direction.PROBE, ".probe"),
        ):
            if function_of(step, direction) is None:
                continue
            other = app.tasks.get(name + suffix)
            if other is None:
                app.register_task(_task_class(app, installation, step, direction, name + suffix)())
            elif not getattr(other, "saga_step", False):
                raise DefinitionError(
                    f"the Celery task {name + suffix!r} of {type(other).__module__} has the name of the step at "
                    f"{place_of(step.function)}: give the step another with name="
                )


def _task_class(app: Any, installation: Installation, step: AnyStep, direction: Direction, name: str) -> type[Any]:
    policy = step.compensation_policy if direction is Direction.COMPENSATION else step.policy
    timeout = policy.timeout_seconds

    def run(task: Any, *, idempotency_key: str, run: str, attempt: int) -> None:
        perform(installation, task.name, UUID(idempotency_key), run, attempt)

    # These live on our class only: the team's other tasks keep their settings. Safety does not lean on them: messages
    # may be lost or doubled with and without.
    settings: dict[str, Any] = {
        "name": name,
        "saga_step": True,
        "run": run,
        "__doc__": function_of(step, direction).__doc__ or step.__doc__,
        "__module__": step.__module__,
        "acks_late": True,
        "acks_on_failure_or_timeout": True,
        "reject_on_worker_lost": True,
        "ignore_result": True,
        "store_errors_even_if_ignored": False,
        "serializer": "json",
        "throws": (Abort,),
        "soft_time_limit": timeout,
        "time_limit": None if timeout is None else timeout + GRACE_SECONDS,
        "max_retries": None,
        "autoretry_for": (),
    }
    return type("StepTask", (app.Task,), settings)


def perform(installation: Installation, task: str, token: UUID, run: str, number: int) -> None:
    """Run one delivery of one attempt to its recorded outcome; a delivery that may not claim it is dropped.

    What runs is what the claimed row names; a message that says something else gets no further than its claim.

    Raises:
        Ignore: another delivery has it, or it is over.
        Reject: Postgres did not answer; the message is to be delivered again.
        Retry: the outcome is recorded and another attempt may follow; Celery shows it as RETRY, and sends nothing.
        SystemExit: this process is to end, in the middle of it; the outcome is recorded if Postgres answered in time.
        Exception: the outcome is recorded; Celery shows the task as failed.
    """
    reach(Point.WORKER_RECEIVED, task)
    step, direction = _step_of(installation, task)
    claimant = uuid4()
    working = installation.working
    try:
        claim = _until_answered(
            installation,
            lambda connection: working.claim(connection, token, number, claimant),
            cut_off=SoftTimeLimitExceeded,
        )
    except SoftTimeLimitExceeded:
        # The hard limit would end this process and acknowledge a message that nobody has claimed.
        log.warning("attempt %s of %s for %s goes back to its queue: Postgres does not answer", number, task, run)
        raise Reject(requeue=True) from None
    if claim is None:
        log.info("dropped a message: attempt %s of %s for %s is done, fenced or another's", number, task, run)
        raise Ignore
    if claim.name != task:
        log.error("a message for %s named the attempt of another step: %s is run instead", task, claim.name)
        step, direction = _step_of(installation, claim.name)
    reach(Point.WORKER_CLAIMED, claim.name)
    action = token if direction is Direction.ACTION else UUID(json.loads(claim.input)["action"])
    running = Attempt(action if direction is Direction.PROBE else token, action, number, run, step.name)
    heart = Heart(
        installation.codec,
        working,
        claim,
        running,
        connect=lambda: _connection(installation),
        disconnect=lambda: disconnect(installation),
    )
    running.progress, running.beat = claim.progress, heart.beat
    reset = attempt_now.set(running)
    began = time.monotonic()
    ended: Ended | None = None
    try:
        with Renewer(installation, claim, running):
            if step.transactional and direction is not Direction.PROBE:
                transacted = _run_in_transaction(installation, step, direction, claim, running, began)
                if transacted is None:
                    log.warning("attempt %s of %s was fenced before it ran", claim.attempt, claim.name)
                    raise Ignore
                ended = transacted
            else:
                ended = run_attempt(step, direction, claim.input, installation.codec)
                reach(Point.WORKER_RAN, claim.name)
                _leave_if_told(ended)
                _record(installation, claim, ended, began, heart.told)
    except SystemExit as error:
        # A cold shutdown strikes anywhere, and once; in mid-statement nobody can use the connection any more.
        disconnect(installation)
        with suppress(*_NO_ANSWER), answered_within(LEAVING_SECONDS):
            _record(installation, claim, ended or unknown(step, direction, error), began, heart.told)
        raise
    finally:
        attempt_now.reset(reset)
    reach(Point.WORKER_RECORDED, claim.name)
    _show(step, direction, number, ended)


def _step_of(installation: Installation, task: str) -> tuple[AnyStep, Direction]:
    name, direction = split_task_name(task)
    return installation.definitions.steps[name], direction


def _leave_if_told(ended: Ended) -> None:
    """Raise the SystemExit that struck in the function: what is left to do has to be done at once."""
    if isinstance(ended.error, SystemExit):
        raise ended.error


def _record(installation: Installation, claim: Claim, ended: Ended, began: float, progress: str | None = None) -> None:
    """Tell the outcome until there is an answer; a fenced attempt tells it late, for it may be the only witness."""
    working = installation.working
    payload = _payload(ended, began, progress)
    recorded = _until_answered(
        installation,
        lambda connection: working.record_outcome(connection, claim, ended.kind, payload),
    )
    if not recorded:
        log.warning("attempt %s of %s was fenced while it ran; its outcome is told late", claim.attempt, claim.name)
        _until_answered(installation, lambda connection: working.record_late(connection, claim, ended.kind, payload))


def _payload(ended: Ended, began: float, progress: str | None = None) -> str:
    further = None if ended.kind is EventKind.STEP_SUCCEEDED else progress  # a success is followed by no attempt
    return wrap(ended.value, worker=worker_name(), ran_seconds=time.monotonic() - began, progress=further)


def _run_in_transaction(
    installation: Installation,
    step: AnyStep,
    direction: Direction,
    claim: Claim,
    running: Attempt,
    began: float,
) -> Ended | None:
    """Run a transactional step (P6): its effect and its outcome commit together, or neither does.

    Without an answer it asks again, as for everything else; what is still claimed has not landed. None: it was fenced
    before it ran.
    """
    engine = installation.database.engine(autocommit=False)
    ended: Ended | None = None
    cut_off: SoftTimeLimitExceeded | None = None
    waits = pauses(*RETRY_SECONDS)
    while cut_off is None:
        try:
            with _lent(engine) as connection:
                transaction = connection.begin()
                running.connection = connection
                ended = run_attempt(step, direction, claim.input, installation.codec)
                reach(Point.WORKER_RAN, claim.name)
                if ended.kind is not EventKind.STEP_SUCCEEDED:
                    with suppress(DBAPIError):
                        transaction.rollback()
                    break
                payload = _payload(ended, began)
                if not installation.working.record_outcome_within(connection, claim, ended.kind, payload):
                    transaction.rollback()
                    log.warning(
                        "attempt %s of %s was fenced while it ran and is rolled back", claim.attempt, claim.name
                    )
                    return ended
                transaction.commit()
                return ended
        except SoftTimeLimitExceeded as error:
            cut_off = error
        except (DBAPIError, PoolTimeout) as error:
            log.warning("the transaction of %s has no answer (%s): looking", claim.name, type(error).__name__)
        try:
            mine = _is_still_mine(installation, claim, cut_off=SoftTimeLimitExceeded)
            if mine:
                time.sleep(next(waits))
        except SoftTimeLimitExceeded as error:
            cut_off = error
            mine = _is_still_mine(installation, claim)
        if not mine:
            return ended  # it landed, or it was fenced before and rolled back
    if cut_off is not None:  # its time was over before anything landed
        ended = Ended(EventKind.STEP_ROLLED_BACK, json.dumps(describe(cut_off)), cut_off)
    assert ended is not None
    _leave_if_told(ended)
    if ended.kind is EventKind.STEP_REFUSED:  # rolled back with the transaction: nothing landed
        ended = Ended(EventKind.STEP_ROLLED_BACK, ended.value, ended.error)
    _record(installation, claim, ended, began)
    return ended


@contextmanager
def _lent(engine: sqlalchemy.Engine) -> Iterator[sqlalchemy.Connection]:
    """Lend a connection; one whose transaction has no answer is closed, and nobody else gets it."""
    connection = engine.connect()
    try:
        yield connection
    except BaseException:
        with suppress(DBAPIError):
            connection.invalidate()
        raise
    finally:
        with suppress(DBAPIError):
            connection.close()


def _is_still_mine(installation: Installation, claim: Claim, *, cut_off: type[BaseException] = _Never) -> bool:
    """Wait for an answer about an attempt whose transaction has none. True: nothing landed, and it may run again."""
    return _until_answered(installation, lambda c: installation.working.still_claimed(c, claim), cut_off=cut_off)


def _show(step: AnyStep, direction: Direction, number: int, ended: Ended) -> None:
    """Let Celery show what happened: RETRY where another attempt follows, the error itself on the last."""
    error = ended.error
    if error is None:
        return
    if isinstance(error, Exception) and not isinstance(error, Abort):
        policy = step.compensation_policy if direction is Direction.COMPENSATION else step.policy
        if isinstance(error, RetryLater) or policy.retry.allows(number):
            raise Retry(message=f"attempt {number} of {step.name}: {type(error).__name__}", exc=error)
    raise error


def _until_answered(
    installation: Installation, ask: Callable[[Connection], T], *, cut_off: type[BaseException] = _Never
) -> T:
    """Ask Postgres until there is an answer: without one nothing may run, and nothing may be acknowledged.

    Only `cut_off` ends it, wherever it strikes, and the end of `answered_within`; a soft time limit otherwise is one
    more reason to ask again.
    """
    waits = pauses(*RETRY_SECONDS)
    while True:
        try:
            try:
                return ask(_connection(installation))
            except _NO_ANSWER as error:
                pause = next(waits)
                disconnect(installation)
                if seconds_left() < pause:
                    log.warning("no answer from Postgres (%s): the lease will tell", type(error).__name__)
                    raise
                log.warning("no answer from Postgres (%s); asking again in %.2f s", type(error).__name__, pause)
                time.sleep(pause)
        except cut_off:
            disconnect(installation)
            raise
        except SoftTimeLimitExceeded:
            log.warning("the soft time limit struck while Postgres was asked; asking again")
            disconnect(installation)


def _connection(installation: Installation) -> Connection:
    """Return this process's connection, made after any fork."""
    key = (os.getpid(), installation.schema)
    connection = _connections.get(key)
    if connection is None or connection.closed:
        session = not installation.app.conf.saga_pgbouncer
        connection = _connections[key] = connect(
            installation.database.url, application_name="saga-worker", session=session
        )
    return connection


def disconnect(installation: Installation) -> None:
    """Close this process's connection, if it has one."""
    connection = _connections.pop((os.getpid(), installation.schema), None)
    if connection is not None:
        with suppress(psycopg.Error):
            connection.close()


def worker_name() -> str:
    """Return who runs this: the worker's node name, if it has one, and the process."""
    from celery import current_task

    request: Any = getattr(current_task, "request", None)
    node = getattr(request, "hostname", None) or "worker"
    return f"{node}/{os.getpid()}"
