"""What a saga function is given: `ctx`, the verbs of a saga. It asks and waits; it never does I/O."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload
from uuid import UUID

from saga.core import joining
from saga.core.address import check_key
from saga.core.definition import RUN_TIMEOUT_SECONDS_MAX, AnyStep, Policy, SagaDefinition, Step, VoidStep
from saga.core.errors import (
    Abort,
    DefinitionError,
    SignalTimeout,
    StepFailed,
    ValueRefused,
    describe,
)
from saga.core.events import Direction, EventKind, token_of
from saga.core.pending import ChildPending, LockPending, Pending, Request, SignalPending, StepPending, TimerPending
from saga.core.pinned import ChildLink, Close, LockLink, Pinned, action_payload
from saga.core.program import Program
from saga.core.retry import Retry
from saga.core.signals import Signal, Update

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)
Answer = TypeVar("Answer")
Duration = float | timedelta

#: Bytes that `ctx.set_state` and all of `ctx.set_attributes` may have each, as JSON.
STATE_BYTES_MAX = 65_536
#: Steps that `ctx.map` keeps going at once when nothing else is written.
MAP_CONCURRENCY = 50
#: Characters that a child's or a lock's name may have.
NAME_CHARACTERS_MAX = 180

#: Seconds that `ctx.lock(timeout=)` may be.
LOCK_TIMEOUT_SECONDS_MAX = 365 * 86_400

#: How a child or a lock is tried: once; whoever answers for it retries by itself.
_ONCE = Retry(attempts=1)


class Declared(Protocol[In, Out]):
    """A declared saga, as far as the types of its input and result go."""

    @property
    def function(self) -> Callable[[Context, In], Out]:
        """The saga function."""


@dataclass(frozen=True, slots=True)
class Savepoint:
    """A place in a run that `ctx.rollback` goes back to."""

    name: str


class Context:
    """The verbs of a saga function. Everything else it does must be deterministic: no I/O, no clock, no randomness."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._occurrences: Counter[str] = Counter()
        self._drawn = 0
        self._pendings: dict[str, StepPending[Any]] = {}

    @property
    def key(self) -> str:
        """The caller's business key, such as `order-7`."""
        return self._program.host.key

    def now(self) -> datetime:
        """Return the time of what this turn answers (database time, timezone-aware); the same in every replay."""
        self._program.check_alive()
        return self._program.host.now

    def random(self) -> float:
        """Return a number in [0, 1), the same in every replay."""
        return (self._draw("random") >> 75) / 2**53

    def uuid(self) -> UUID:
        """Return a UUID (version 4), the same in every replay."""
        return UUID(int=self._draw("uuid"), version=4)

    def _draw(self, what: str) -> int:
        self._program.check_alive()
        self._drawn += 1
        seed = f"{what}{self._drawn}".encode()
        return int.from_bytes(hashlib.sha256(self._program.host.run.bytes + seed).digest()[:16], "big")

    # -- steps -----------------------------------------------------------------------------------------------------

    @overload
    def start(self, step: VoidStep[P], /, *args: P.args, **kwargs: P.kwargs) -> Pending[None]: ...
    @overload
    def start(self, step: Step[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Pending[T]: ...
    def start(self, step: Any, /, *args: Any, **kwargs: Any) -> Pending[Any]:
        """Start a step and go on; its compensation is registered before the action is dispatched.

        Raises:
            ValueRefused: an argument cannot be stored, or all of them together are too large.
        """
        if not isinstance(step, AnyStep):
            raise DefinitionError(f"ctx.run/ctx.start got {step!r}: expected a function decorated with @step")
        program = self._program
        occurrence = self._schedule(
            step.name, lambda: _payload(program, step, args, kwargs), names=(step.name, *step.aliases)
        )
        pending: StepPending[Any] = StepPending(program, occurrence, step)
        self._pendings[occurrence] = pending
        return pending

    def _occurrence(self, name: str) -> str:
        self._program.check_alive()
        self._occurrences[name] += 1
        return f"{name}#{self._occurrences[name]}"

    def _schedule(self, name: str, payload: Callable[[], str], *, names: tuple[str, ...]) -> str:
        occurrence = self._occurrence(name)
        token = token_of(self._program.host.run, occurrence, Direction.ACTION)
        event = self._program.ask(EventKind.ACTION_SCHEDULED, key=occurrence, token=token, payload=payload, names=names)
        assert event.key is not None
        return event.key

    @overload
    def run(self, step: VoidStep[P], /, *args: P.args, **kwargs: P.kwargs) -> None: ...
    @overload
    def run(self, step: Step[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def run(self, step: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Start a step and wait for its result.

        Raises:
            StepFailed: the step is settled as failed: nothing of it stands. Leave it uncaught and the run is undone.
            ValueRefused: an argument cannot be stored, or all of them together are too large.
        """
        return self.start(step, *args, **kwargs).result()

    @overload
    def gather(self, a: Pending[A], b: Pending[B], /) -> tuple[A, B]: ...
    @overload
    def gather(self, a: Pending[A], b: Pending[B], c: Pending[C], /) -> tuple[A, B, C]: ...
    @overload
    def gather(self, a: Pending[A], b: Pending[B], c: Pending[C], d: Pending[D], /) -> tuple[A, B, C, D]: ...
    @overload
    def gather(self, *pendings: Pending[T]) -> tuple[T, ...]: ...
    @overload
    def gather(self, *pendings: Pending[T], collect: Literal[True]) -> tuple[T | StepFailed, ...]: ...
    def gather(self, *pendings: Pending[Any], collect: bool = False) -> tuple[Any, ...]:
        """Wait for all and return their results in order.

        The first to fail is raised at once, and the others run on; with `collect=True` all are waited for, and those
        that failed stand in the result as StepFailed.

        Raises:
            StepFailed: one of them failed. What the others did stands until the run ends or is undone.
        """
        return joining.gather(self._program, pendings, collect=collect)

    @overload
    def map(self, step: Step[[A], T], items: Iterable[A], /, *, concurrency: int = ...) -> list[T]: ...
    @overload
    def map(
        self, step: Step[[A], T], items: Iterable[A], /, *, concurrency: int = ..., collect: Literal[True]
    ) -> list[T | StepFailed]: ...
    @overload
    def map(self, step: VoidStep[[A]], items: Iterable[A], /, *, concurrency: int = ...) -> list[None]: ...
    @overload
    def map(
        self, step: VoidStep[[A]], items: Iterable[A], /, *, concurrency: int = ..., collect: Literal[True]
    ) -> list[StepFailed | None]: ...
    def map(
        self, step: Any, items: Iterable[Any], /, *, concurrency: int = MAP_CONCURRENCY, collect: bool = False
    ) -> list[Any]:
        """Run a step of one parameter over items, at most `concurrency` at once, and return the results in order.

        After a failure nothing more is started, and it is raised; with `collect=True` all are run, and those that
        failed stand in the result as StepFailed.

        Raises:
            StepFailed: one of them failed. What the others did stands until the run ends or is undone.
            DefinitionError: `concurrency` is below 1.
        """
        if concurrency < 1:
            raise DefinitionError(f"ctx.map(…, concurrency={concurrency}): expected 1 or more")
        begun: list[StepPending[Any]] = []
        going: set[str] = set()
        settlements = self._program.host.state.settlements
        seen = len(settlements)
        for item in items:
            pending = self.start(step, item)
            assert isinstance(pending, StepPending)
            begun.append(pending)
            going.add(pending._occurrence)
            if len(going) < concurrency:
                continue
            settled = joining.any_of(self._program, going, seen)
            seen = len(settlements)
            going -= settled
            if not collect and any(self._pendings[occurrence]._failed for occurrence in settled):
                break
        return list(self.gather(*begun, collect=True) if collect else self.gather(*begun))

    @overload
    def first(self, a: Pending[A], b: Pending[B], /) -> Pending[A | B]: ...
    @overload
    def first(self, a: Pending[A], b: Pending[B], c: Pending[C], /) -> Pending[A | B | C]: ...
    @overload
    def first(self, a: Pending[A], b: Pending[B], c: Pending[C], d: Pending[D], /) -> Pending[A | B | C | D]: ...
    @overload
    def first(self, *pendings: Pending[T]) -> Pending[T]: ...
    def first(self, *pendings: Pending[Any]) -> Pending[Any]:
        """Wait for the first success and return that pending.

        The losers are not wanted any more: a step is fenced, or undone when it lands; a timer is cancelled; a wait for
        a signal leaves it for the next wait.

        Raises:
            StepFailed: all of them failed; the last one to fail is raised.
            DefinitionError: called after the pivot with a step or child, which could not be undone there.
        """
        return joining.first(self._program, pendings)

    # -- signals and time ------------------------------------------------------------------------------------------

    @overload
    def wait(self, signal: Update[T, Answer], /) -> Pending[Request[T, Answer]]: ...
    @overload
    def wait(self, signal: Signal[T], /) -> Pending[T]: ...
    def wait(self, signal: Signal[Any], /) -> Pending[Any]:
        """Begin to wait for the next signal of a name, and go on; one that came early is there at once.

        Raises:
            DefinitionError: the saga does not declare it in `signals=[…]`.
        """
        if signal not in self._program.definition.signals:
            raise DefinitionError(
                f"saga {self._program.definition.name} waits for {signal!r} and does not declare it: "
                f"write @saga(…, signals=[…]) with it, so that senders are checked"
            )
        occurrence = self._occurrence(f"signal:{signal.name}")
        self._program.ask(EventKind.SIGNAL_AWAITED, key=occurrence, payload=json.dumps({"signal": signal.name}))
        return SignalPending(self._program, occurrence, signal)

    @overload
    def wait_signal(self, signal: Update[T, Answer], /, *, timeout: Duration | None = ...) -> Request[T, Answer]: ...
    @overload
    def wait_signal(self, signal: Signal[T], /, *, timeout: Duration | None = ...) -> T: ...
    def wait_signal(self, signal: Signal[Any], /, *, timeout: Duration | None = None) -> Any:
        """Wait for the next signal of a name and return its value; None waits for ever. Seconds, or a timedelta.

        Raises:
            SignalTimeout: it did not come in time. Leave it uncaught and the run is undone.
            DefinitionError: the saga does not declare it in `signals=[…]`.
        """
        pending = self.wait(signal)
        if timeout is None:
            return pending.result()
        timer = self.timer(timeout)
        if self.first(pending, timer) is timer:
            raise SignalTimeout(signal.name, _seconds(timeout))
        return pending.result()

    def timer(self, until: Duration | datetime, /) -> Pending[None]:
        """Start a durable timer, by seconds, a timedelta, or the time it is due at (timezone-aware).

        It counts from the turn that starts it, however late that is, and is never early; a time that has passed is due
        at once.

        Raises:
            DefinitionError: its seconds are below 0; it is a time without a timezone; or it is more than ten years
                ahead, of `ctx.now()` where it is a time.
        """
        self._program.check_alive()
        payload = json.dumps({"due_at": self._due(until).isoformat()})
        occurrence = self._occurrence("timer")
        self._program.ask(EventKind.TIMER_STARTED, key=occurrence, payload=payload)
        return TimerPending(self._program, occurrence)

    def sleep(self, until: Duration | datetime, /) -> None:
        """Wait for a time to pass: `ctx.timer(until).result()`. It costs nothing meanwhile."""
        self.timer(until).result()

    def _due(self, until: Duration | datetime) -> datetime:
        if isinstance(until, datetime):
            if until.tzinfo is None:
                raise DefinitionError(f"ctx.timer({until!r}): a time without a timezone; use one from ctx.now()")
            now, farthest = self._program.host.now, timedelta(seconds=RUN_TIMEOUT_SECONDS_MAX)
            if until - now > farthest:
                raise DefinitionError(f"ctx.timer({until!r}): expected a time at most ten years from ctx.now()")
            return max(until, now - farthest)  # Postgres stores the year 1, but west of Greenwich nobody can read it
        seconds = _seconds(until)
        if not 0 <= seconds <= RUN_TIMEOUT_SECONDS_MAX:
            raise DefinitionError(f"ctx.timer({until!r}): expected 0 seconds or more, and at most ten years")
        return self._program.host.decided_at + timedelta(seconds=seconds)

    # -- children and locks ----------------------------------------------------------------------------------------

    def start_child(
        self,
        saga: Declared[A, T],
        given: A,
        /,
        *,
        id: str | None = None,
        close: Literal["wait", "cancel", "abandon"] = "wait",
    ) -> Pending[T]:
        """Start a run of another saga and go on. It has a log of its own, and is undone with this run.

        `close` says what becomes of it when this run returns first: it is waited for, cancelled, or left alone. Its key
        is `id`, or this run's address and a number.

        Raises:
            DefinitionError: it is no saga, or `close` is none of these.
            ValueRefused: the input does not fit, or the key is too long.
        """
        program = self._program
        program.check_alive()
        if not isinstance(saga, SagaDefinition):
            raise DefinitionError(f"ctx.child/ctx.start_child got {saga!r}: expected a function decorated with @saga")
        try:
            policy = Close(close)
        except ValueError:
            expected = ", ".join(repr(choice.value) for choice in Close)
            raise DefinitionError(f"ctx.start_child(…, close={close!r}): expected one of {expected}") from None
        name = f"child:{saga.name}"
        number = self._occurrences[name] + 1

        def payload() -> str:
            key = check_key(id, characters_max=NAME_CHARACTERS_MAX) if id is not None else self._child_key(number)
            link = ChildLink(saga.name, key, saga.version, saga.timeout_seconds, policy)
            once = Policy(retry=_ONCE, timeout_seconds=None)
            undo = None if policy is Close.ABANDON else once
            text = program.host.codec.encode_saga_input(saga, given)
            return action_payload(Pinned(name, once, undo, False, link), text)

        pending: ChildPending[Any] = ChildPending(program, self._schedule(name, payload, names=(name,)), saga)
        self._pendings[pending._occurrence] = pending
        return pending

    def child(self, saga: Declared[A, T], given: A, /, *, id: str | None = None) -> T:
        """Run another saga and wait for its result.

        Raises:
            ChildFailed: it ended otherwise than completed; nothing of it stands. Uncaught, this run is undone too.
        """
        return self.start_child(saga, given, id=id).result()

    def _child_key(self, number: int) -> str:
        key = f"{self._program.definition.name}/{self.key}#{number}"
        if len(key) <= NAME_CHARACTERS_MAX:
            return key
        return f"{key[:100]}…{hashlib.sha256(key.encode()).hexdigest()[:32]}#{number}"

    def lock(self, name: str, /, *, wait: bool = True, timeout: Duration | None = None) -> None:
        """Take a semantic lock and hold it until this run has ended, undo included; across restarts too.

        It keeps out other runs that ask for the same name, and nobody else. `wait=False` fails at once when it is
        taken, `timeout` (seconds or a timedelta) after that time.

        Raises:
            LockTaken: it is another run's. Leave it uncaught and the run is undone; behind the pivot it stalls.
            ValueRefused: the name is no text of 1 to 180 printable characters.
            DefinitionError: `timeout` is not above 0, or more than a year.
        """
        program = self._program
        program.check_alive()
        named = f"lock:{check_key(name, 'name', characters_max=NAME_CHARACTERS_MAX)}"
        deadline = None if timeout is None else _seconds(timeout)
        if deadline is not None and not 0 < deadline <= LOCK_TIMEOUT_SECONDS_MAX:
            raise DefinitionError(
                f"ctx.lock({name!r}, timeout={timeout!r}): expected seconds above 0 and at most a year; "
                "wait=False asks once"
            )
        policy = Policy(retry=_ONCE, timeout_seconds=None, deadline_seconds=deadline)
        payload = action_payload(Pinned(named, policy, None, False, LockLink(name, wait)), "null")
        pending = LockPending(program, self._schedule(named, lambda: payload, names=(named,)))
        self._pendings[pending._occurrence] = pending
        pending.result()

    # -- what is shown ---------------------------------------------------------------------------------------------

    def set_state(self, value: Any, /) -> None:
        """Show something to whoever calls `handle.state()`: any value that is JSON, a dataclass or a model.

        Raises:
            ValueRefused: it cannot be stored, or is larger than STATE_BYTES_MAX.
        """
        self._program.check_alive()
        payload = self._program.host.codec.encode_plain(value, "the state", STATE_BYTES_MAX)
        self._program.ask(EventKind.STATE_SET, payload=payload)

    def set_attributes(self, **attributes: str | int | float | bool | None) -> None:
        """Set attributes by which runs can be listed (`saga list --where city=Berlin`); others keep their values.

        Raises:
            ValueRefused: a value is no text, number or truth value, or all together are larger than STATE_BYTES_MAX.
        """
        program = self._program
        program.check_alive()
        for name, value in attributes.items():
            if not isinstance(value, str | int | float | bool | None):
                raise ValueRefused(f"attribute {name} is a {type(value).__name__}: expected text, number, bool or None")
        payload = program.host.codec.encode_plain(attributes, "the attributes", STATE_BYTES_MAX)
        program.ask(EventKind.ATTRIBUTES_SET, payload=payload)

    # -- back and forward ------------------------------------------------------------------------------------------

    def savepoint(self) -> Savepoint:
        """Mark this place: `ctx.rollback` comes back to it."""
        name = self._occurrence("savepoint")
        self._program.ask(EventKind.SAVEPOINT_SET, key=name)
        return Savepoint(name)

    def rollback(self, savepoint: Savepoint, /) -> None:
        """Undo what was started since the save-point, newest first, and wait for that; then go on from here.

        Raises:
            DefinitionError: called after the pivot, where nothing goes back.
        """
        state = self._program.host.state
        self._program.check_alive()
        if state.pivoted:
            raise DefinitionError("ctx.rollback(…) after ctx.pivot(): from there on nothing goes back")
        rolled = [step.occurrence for step in state.since(savepoint.name)]
        for occurrence in rolled:
            self._pendings[occurrence]._seen = True
        self._program.ask(EventKind.ROLLBACK_ASKED, key=savepoint.name)
        self._program.wait_until(lambda: state.unfinished.keys().isdisjoint(rolled))

    def pivot(self) -> None:
        """Pass the point of no return: wait for what was started, then go only forward.

        Later failures are retried, or stall the run.

        Raises:
            StepFailed: something started before and not waited for has failed.
        """
        if self._program.host.state.pivoted:
            raise DefinitionError("ctx.pivot() was called twice: a run has one point of no return")
        self._settle(Close.ABANDON)
        self._program.ask(EventKind.PIVOT_PASSED)

    def _settle(self, *unwanted: Close) -> None:
        """Wait until nothing that was started is open, and raise what failed without the function being told.

        Of children that are closed in an unwanted way no failure is raised.
        """
        state = self._program.host.state
        self._program.wait_until(lambda: not state.unfinished)
        untold = [p for p in self._pendings.values() if p._failed and not p._seen and not p._state.discarded]
        untold = [pending for pending in untold if _closing(pending) not in unwanted]
        if untold:
            first = min(untold, key=joining.settled_at)
            first._seen = True
            raise first._failure()

    def _close(self) -> None:
        """Cancel the children that shall not outlive the function, and settle the rest."""
        for pending in list(self._pendings.values()):
            if _closing(pending) is Close.CANCEL and not pending.settled:
                pending._lose()
        self._settle(Close.ABANDON, Close.CANCEL)


def _closing(pending: StepPending[Any]) -> Close | None:
    link = pending._state.link
    return link.close if isinstance(link, ChildLink) else None


def _seconds(duration: Duration) -> float:
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


def _payload(program: Program, step: AnyStep, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    given = program.host.codec.encode_input(step, args, kwargs)
    declared = step.declared
    undo = declared.compensation_policy if declared.compensation is not None else None
    probe = declared.probe_function is not None
    return action_payload(Pinned(step.name, step.policy, undo, probe, transactional=declared.transactional), given)


def main_of(make_input: Callable[[], Any]) -> Callable[[Program], None]:
    """Return the body of a program: call the saga function, settle what it started, and ask for how it ended."""

    def main(program: Program) -> None:
        ctx = Context(program)
        try:
            value = program.definition.function(ctx, make_input())
            ctx._close()
        except (Abort, StepFailed, SignalTimeout) as error:
            if program.host.state.pivoted:
                raise
            program.ask(EventKind.RUN_FAILED, payload=json.dumps(describe(error)))
            return
        output = "null" if program.host.replaying else program.host.codec.encode_output(program.definition, value)
        program.ask(EventKind.RUN_COMPLETED, payload=output)

    return main
