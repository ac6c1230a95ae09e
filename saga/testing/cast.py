"""The steps of a play: the real functions or what stands for them, and what they can know of their attempt.

It runs one attempt when told to; which attempt is due, and what its outcome means, it must not know.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy

from saga.core.current import Attempt, attempt_now
from saga.core.definition import AnyStep
from saga.core.effects import RunTask
from saga.core.errors import DefinitionError, SagaError, ValueRefused
from saga.core.events import Direction, EventKind, split_task_name
from saga.engine.codec import JsonCodec
from saga.engine.heart import PROGRESS_BYTES_MAX
from saga.engine.outcomes import Ended, function_of, run_attempt
from saga.engine.registry import is_companion, step_named

Replacement = Any  #: a value to return, an exception to raise, or a callable to call instead
Replacements = Mapping[AnyStep | Callable[..., Any], Replacement]


class Cast:
    """The steps of one play with their stand-ins, and the list of what ran.

    Raises:
        DefinitionError: something else than a step, a compensation or a probe is replaced.
        ValueRefused: the connection is none of SQLAlchemy's.
    """

    def __init__(
        self, codec: JsonCodec, replace: Replacements, connection: sqlalchemy.Connection | None = None
    ) -> None:
        if connection is not None and not isinstance(connection, sqlalchemy.Connection):
            raise ValueRefused(
                f"connection={connection!r}: expected a SQLAlchemy Connection, as a worker gives it to a transactional "
                "step; of a Session that is session.connection()"
            )
        for target in replace:
            if not isinstance(target, AnyStep) and not is_companion(target):
                raise DefinitionError(
                    f"replace has {target!r}: expected a step, or the function that is its compensation or probe"
                )
        self.ran: list[str] = []
        self._codec = codec
        self._connection = connection
        self._stand_ins = {_function(target): _stand_in(stand_in) for target, stand_in in replace.items()}
        # Runs of a play always have the same id, so that a play can be repeated; a fake that outlives one play
        # would take the next one's effects for repetitions if the tokens that it sees were the same, too.
        self._salt = uuid4().bytes

    def run(self, task: RunTask, run: str, told: list[str], *, fenced: bool = False) -> Ended:
        """Run one attempt and return how it ended; `told` gets the progress that it tells, as JSON text.

        A transactional one runs in a savepoint of the play's connection, and is rolled back unless it succeeds. One
        that is `fenced` hears of it when it beats, and not before.

        Raises:
            SagaError: it asked for a connection, and the play has none.
        """
        name, direction = split_task_name(task.name)
        step = step_named(name)
        self.ran.append(task.name)
        action = _action_of(task)
        token = action if direction is Direction.PROBE else task.token
        declared = function_of(step, direction)
        function = declared if declared is None else self._stand_ins.get(declared, declared)
        transactional = self.transactional(task)
        connection = self._connection if transactional else None
        kind = Unconnected if transactional and connection is None else Attempt
        running = kind(self._salted(token), self._salted(action), task.attempt, run, name, connection)
        running.progress = task.progress

        def beat(progress: Any) -> None:
            told.extend(_told(self._codec, progress))
            running.fenced = fenced

        running.beat = beat
        with _savepoint(connection) as savepoint, _running(running):
            ended = run_attempt(step, direction, task.input, self._codec, function=function)
            if savepoint is not None and ended.kind is not EventKind.STEP_SUCCEEDED:
                savepoint.rollback()
        if isinstance(running, Unconnected) and running.missed:
            called = getattr(declared, "__name__", name)
            raise SagaError(
                f"step {name} is transactional, and this play has no connection for it: add connection= with one of "
                f"SQLAlchemy's, or say what stands for the step: replace={{{called}: …}}"
            )
        if transactional and ended.kind is EventKind.STEP_REFUSED:  # rolled back with its transaction: nothing landed
            return Ended(EventKind.STEP_ROLLED_BACK, ended.value, ended.error)
        return ended

    def transactional(self, task: RunTask) -> bool:
        """Say whether an attempt's effect is rolled back with its worker."""
        name, direction = split_task_name(task.name)
        return direction is not Direction.PROBE and step_named(name).transactional

    def overtakes(self, task: RunTask, frozen: RunTask) -> bool:
        """Say whether an attempt does again, or undoes, what a frozen one was to do."""
        _, direction = split_task_name(task.name)
        return direction is not Direction.PROBE and frozen.token in (task.token, _action_of(task))

    def _salted(self, token: UUID) -> UUID:
        return UUID(bytes=hashlib.sha256(self._salt + token.bytes).digest()[:16])


class Unconnected(Attempt):
    """An attempt at a transactional step, in a play that has no connection for it; `missed` says that it wanted one."""

    __slots__ = ("missed",)
    missed: bool

    @property
    def connection(self) -> Any:
        """Note that it was asked for."""
        self.missed = True
        raise SagaError(f"step {self.step} has no connection in this play")

    @connection.setter
    def connection(self, none: None) -> None:
        self.missed = False


@dataclass(slots=True)
class Rehearsal(Attempt):
    """An attempt in a unit test."""

    told: list[Any] = field(default_factory=list)  #: its progress, oldest first


@contextmanager
def attempt(
    *,
    token: UUID | None = None,
    action_token: UUID | None = None,
    number: int = 1,
    run: str = "test/1",
    step: str = "test",
    connection: Any = None,
    progress: Any = None,
) -> Iterator[Rehearsal]:
    """Stand in for a worker in a unit test: `saga.current` answers inside the block.

    `progress` is what an earlier attempt told; what the step tells by `current.heartbeat` stands in `told` of what the
    block gets, as plain JSON.

    Raises:
        ValueRefused: the progress cannot be stored.
    """
    codec = JsonCodec()
    token = token or uuid4()
    running = Rehearsal(token, action_token or token, number, run, step, connection)
    running.progress = next(iter(_told(codec, progress)), None)
    running.beat = lambda value: running.told.extend(map(json.loads, _told(codec, value)))
    with _running(running):
        yield running


@contextmanager
def _running(running: Attempt) -> Iterator[None]:
    reset = attempt_now.set(running)
    try:
        yield
    finally:
        attempt_now.reset(reset)


def _savepoint(
    connection: sqlalchemy.Connection | None,
) -> AbstractContextManager[sqlalchemy.NestedTransaction | None]:
    return nullcontext() if connection is None else connection.begin_nested()


def _told(codec: JsonCodec, progress: Any) -> list[str]:
    return [] if progress is None else [codec.encode_plain(progress, "the progress", PROGRESS_BYTES_MAX)]


def _action_of(task: RunTask) -> UUID:
    """Return the token of the action that an attempt does, undoes or looks for."""
    _, direction = split_task_name(task.name)
    return task.token if direction is Direction.ACTION else UUID(json.loads(task.input)["action"])


def _function(target: AnyStep | Callable[..., Any]) -> Callable[..., Any]:
    return target.function if isinstance(target, AnyStep) else target


def _stand_in(replacement: Replacement) -> Callable[..., Any]:
    if isinstance(replacement, BaseException) or (
        isinstance(replacement, type) and issubclass(replacement, BaseException)
    ):

        def fail(*_: Any) -> Any:
            raise replacement

        return fail
    return replacement if callable(replacement) else lambda *_: replacement
