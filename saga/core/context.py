"""What a saga function is given: `ctx`, and the pendings that it waits for. It asks and waits; it never does I/O."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, ParamSpec, TypeVar, overload

from saga.core.definition import AnyStep, Step, VoidStep
from saga.core.errors import Abort, DefinitionError, StepFailed, describe
from saga.core.events import Direction, EventKind, token_of
from saga.core.program import Program
from saga.core.tracks import StepState, pinned_text

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")


class Pending(Generic[T]):
    """Something that was started and has no answer yet. `result()` waits for it."""

    def __init__(self, ctx: Context, step: AnyStep, occurrence: str) -> None:
        self._ctx = ctx
        self._step = step
        self._occurrence = occurrence

    def __repr__(self) -> str:
        return f"<pending {self._occurrence}>"

    @property
    def _state(self) -> StepState:
        return self._ctx._program.host.state.steps[self._occurrence]

    @property
    def settled(self) -> bool:
        """Whether its answer is there."""
        return self._state.settled_seq is not None

    def result(self) -> T:
        """Wait for the answer and return it.

        Raises:
            StepFailed: the step is settled as failed: nothing of it stands.
        """
        self._ctx._program.wait_until(lambda: self.settled)
        state = self._state
        if state.succeeded and not state.discarded:
            return self._ctx._program.host.codec.decode_result(self._step, state.result or "null")  # type: ignore[no-any-return]
        self._ctx._observed.add(self._occurrence)
        raise self._failure()

    @property
    def _failed(self) -> bool:
        return self.settled and (self._state.discarded or not self._state.succeeded)

    def _failure(self) -> StepFailed:
        said: dict[str, str] = json.loads(self._state.failure or "{}")
        if self._state.discarded:
            return StepFailed(self._occurrence, "it lost a `first` and was taken back", "")
        return StepFailed(self._occurrence, said.get("message", "it was fenced"), said.get("type", ""))


class Context:
    """The verbs of a saga function. Everything else it does must be deterministic: no I/O, no clock, no randomness."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._occurrences: Counter[str] = Counter()
        self._observed: set[str] = set()  #: occurrences whose failure the function has been told
        self._pendings: dict[str, Pending[Any]] = {}

    @property
    def key(self) -> str:
        """The caller's business key, such as `order-7`."""
        return self._program.host.key

    def now(self) -> datetime:
        """Return the time of what this turn answers (database time, timezone-aware); the same in every replay."""
        self._program.check_alive()
        return self._program.host.now

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
        program.check_alive()
        self._occurrences[step.name] += 1
        occurrence = f"{step.name}#{self._occurrences[step.name]}"
        token = token_of(program.host.run, occurrence, Direction.ACTION)
        payload = None if program.host.replaying else _payload(program, step, args, kwargs)
        names = (step.name, *step.aliases)
        event = program.ask(EventKind.ACTION_SCHEDULED, key=occurrence, token=token, payload=payload, names=names)
        assert event.key is not None
        pending: Pending[Any] = Pending(self, step, event.key)
        self._pendings[event.key] = pending
        return pending

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
    def gather(self, *pendings: Pending[Any]) -> tuple[Any, ...]:
        """Wait for all and return their results in order; the first to fail is raised at once, the others run on.

        Raises:
            StepFailed: one of them failed. What the others did stands until the run ends or is undone.
        """
        open_ones = list(pendings)

        def satisfied() -> bool:
            while open_ones and open_ones[-1].settled and not open_ones[-1]._failed:
                open_ones.pop()
            return not open_ones or any(pending._failed for pending in open_ones)

        self._program.wait_until(satisfied)
        failed = [pending for pending in pendings if pending._failed]
        if failed:
            self._observed.update(pending._occurrence for pending in pendings)
            raise min(failed, key=_settled_at)._failure()
        return tuple(pending.result() for pending in pendings)

    def first(self, *pendings: Pending[T]) -> Pending[T]:
        """Wait for the first success and return that pending; the losers are fenced, or undone when they land.

        Raises:
            StepFailed: all of them failed; the last one to fail is raised.
            DefinitionError: called after the pivot, where a loser could not be undone.
        """
        if not pendings:
            raise DefinitionError("ctx.first() got nothing to wait for: pass at least one pending")
        if self._program.host.state.pivoted:
            raise DefinitionError(
                "ctx.first(…) after ctx.pivot(): its losers would have to be undone; race before the pivot"
            )

        def won() -> list[Pending[T]]:
            return [pending for pending in pendings if pending.settled and not pending._failed]

        self._program.wait_until(lambda: bool(won()) or all(pending.settled for pending in pendings))
        self._observed.update(pending._occurrence for pending in pendings)
        winners = won()
        if not winners:
            raise max(pendings, key=_settled_at)._failure()
        winner = min(winners, key=_settled_at)
        for loser in pendings:
            if loser is not winner and not loser._failed:
                self._program.ask(EventKind.STEP_DISCARDED, key=loser._occurrence, token=loser._state.action.token)
        return winner

    def pivot(self) -> None:
        """Pass the point of no return: wait for what was started, then go only forward.

        Later failures are retried, or stall the run.

        Raises:
            StepFailed: something started before and not waited for has failed.
        """
        if self._program.host.state.pivoted:
            raise DefinitionError("ctx.pivot() was called twice: a run has one point of no return")
        self._settle()
        self._program.ask(EventKind.PIVOT_PASSED)

    def _settle(self) -> None:
        """Wait until nothing that was started is open, and raise what failed without the function being told."""
        state = self._program.host.state
        self._program.wait_until(lambda: not state.unfinished)
        untold = [p for p in self._pendings.values() if p._failed and p._occurrence not in self._observed]
        untold = [pending for pending in untold if not pending._state.discarded]
        if untold:
            first = min(untold, key=_settled_at)
            self._observed.add(first._occurrence)
            raise first._failure()


def _settled_at(pending: Pending[Any]) -> int:
    return pending._state.settled_seq or 0


def _payload(program: Program, step: AnyStep, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    given = program.host.codec.encode_input(step, args, kwargs)
    declared = step.declared
    undo = declared.compensation_policy if declared.compensation is not None else None
    pinned = pinned_text(task=step.name, policy=step.policy, undo=undo, probe=declared.probe_function is not None)
    return f'{{"step":{pinned},"input":{given}}}'


def main_of(make_input: Callable[[], Any]) -> Callable[[Program], None]:
    """Return the body of a program: call the saga function, settle what it started, and ask for how it ended."""

    def main(program: Program) -> None:
        ctx = Context(program)
        try:
            value = program.definition.function(ctx, make_input())
            ctx._settle()
        except (Abort, StepFailed) as error:
            if program.host.state.pivoted:
                raise
            program.ask(EventKind.RUN_FAILED, payload=json.dumps(describe(error)))
            return
        output = "null" if program.host.replaying else program.host.codec.encode_output(program.definition, value)
        program.ask(EventKind.RUN_COMPLETED, payload=output)

    return main
