"""What a saga function waits for: each kind of pending, and how its answer is read. It asks; it decides nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Generic, TypeVar

from saga.core.definition import AnyStep, SagaDefinition
from saga.core.errors import ChildFailed, DefinitionError, LockTaken, StepFailed, ValueRefused
from saga.core.events import EventKind
from saga.core.signals import Signal, Update
from saga.core.tracks import StepState
from saga.core.waits import Wait

if TYPE_CHECKING:
    from saga.core.program import Program

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Answer = TypeVar("Answer")


class Pending(Generic[T_co]):
    """Something that was started and has no answer yet. `result()` waits for it."""

    def __init__(self, program: Program, occurrence: str) -> None:
        self._program = program
        self._occurrence = occurrence
        self._seen = False  #: its failure was told to the function

    def __repr__(self) -> str:
        return f"<pending {self._occurrence}>"

    @property
    def settled(self) -> bool:
        """Whether its answer is there."""
        return self._settled_seq is not None

    def result(self) -> T_co:
        """Wait for the answer and return it.

        Raises:
            StepFailed: a step is settled as failed: nothing of it stands.
            ChildFailed: a child run ended otherwise than completed.
            LockTaken: a lock is another run's.
        """
        self._check_wanted()
        self._program.wait_until(lambda: self.settled)
        if self._failed:
            self._seen = True
            raise self._failure()
        return self._value()

    # What each kind answers for itself.

    @property
    def _settled_seq(self) -> int | None:
        raise NotImplementedError

    @property
    def _failed(self) -> bool:
        return False

    def _failure(self) -> StepFailed:
        raise NotImplementedError

    def _value(self) -> T_co:
        raise NotImplementedError

    def _check_wanted(self) -> None:
        """Refuse to wait again for what lost a `first`."""

    def _lose(self) -> None:
        """Say in the log that it is not wanted any more."""
        raise NotImplementedError


class StepPending(Pending[T_co]):
    """A step."""

    def __init__(self, program: Program, occurrence: str, step: AnyStep | None = None) -> None:
        super().__init__(program, occurrence)
        self._step = step

    @property
    def _state(self) -> StepState:
        return self._program.host.state.steps[self._occurrence]

    @property
    def _settled_seq(self) -> int | None:
        return self._state.settled_seq

    @property
    def _failed(self) -> bool:
        return self.settled and (self._state.discarded or not self._state.succeeded)

    def _failure(self) -> StepFailed:
        if self._state.discarded:
            why = "it was rolled back" if self._state.in_turn else "it lost a `first` and was taken back"
            return self._error(why, "")
        said: dict[str, str] = json.loads(self._state.failure or "{}")
        return self._error(said.get("message", "it was fenced"), said.get("type", ""))

    def _error(self, reason: str, kind: str) -> StepFailed:
        return StepFailed(self._occurrence, reason, kind)

    def _value(self) -> T_co:
        assert self._step is not None
        return self._program.host.codec.decode_result(self._step, self._state.result or "null")  # type: ignore[no-any-return]

    def _lose(self) -> None:
        if not self._failed:
            self._program.ask(EventKind.STEP_DISCARDED, key=self._occurrence, token=self._state.action.token)


class ChildPending(StepPending[T_co]):
    """A run of another saga."""

    def __init__(self, program: Program, occurrence: str, saga: SagaDefinition) -> None:
        super().__init__(program, occurrence)
        self._saga = saga

    def _error(self, reason: str, kind: str) -> StepFailed:
        return ChildFailed(self._occurrence, reason, kind)

    def _value(self) -> T_co:
        return self._program.host.codec.decode_output(self._saga, self._state.result or "null")  # type: ignore[no-any-return]


class LockPending(StepPending[None]):
    """A semantic lock."""

    def _error(self, reason: str, kind: str) -> StepFailed:
        return LockTaken(self._occurrence, reason, kind)

    def _value(self) -> None:
        return None


class _WaitPending(Pending[T_co]):
    @property
    def _wait(self) -> Wait:
        return self._program.host.state.waits[self._occurrence]

    @property
    def _settled_seq(self) -> int | None:
        return self._wait.settled_seq

    def _check_wanted(self) -> None:
        if self._wait.dropped:
            raise DefinitionError(
                f"{self._occurrence} lost a ctx.first(…) and waits no more: begin to wait again; "
                "a signal that came meanwhile is kept"
            )

    def _lose(self) -> None:
        if not self._wait.dropped:
            self._program.ask(EventKind.WAIT_DROPPED, key=self._occurrence)


class TimerPending(_WaitPending[None]):
    """A timer."""

    def _value(self) -> None:
        return None


class SignalPending(_WaitPending[T_co]):
    """The next signal of a name."""

    def __init__(self, program: Program, occurrence: str, signal: Signal[T_co]) -> None:
        super().__init__(program, occurrence)
        self._signal = signal

    def _value(self) -> T_co:
        letter = self._wait.letter
        assert letter is not None
        value = self._program.host.codec.decode_signal(self._signal, letter.value)
        if isinstance(self._signal, Update):
            return Request(self._program, self._signal, value, letter.id or "")  # type: ignore[return-value]
        return value  # type: ignore[no-any-return]


class Request(Generic[T, Answer]):
    """An update that was received: answer or refuse it once."""

    def __init__(self, program: Program, update: Update[T, Answer], value: T, id: str) -> None:
        self._program = program
        self._update = update
        self._id = id
        self._told = False
        self.value = value

    def __repr__(self) -> str:
        return f"<request {self._update.name}>"

    def answer(self, value: Answer, /) -> None:
        """Answer the sender.

        Raises:
            ValueRefused: the answer does not fit its declared type, or is too large.
            DefinitionError: it was answered or refused before.
        """
        self._tell(f'{{"answer":{self._program.host.codec.encode_answer(self._update, value)}}}')

    def refuse(self, reason: str, /) -> None:
        """Refuse it: the sender gets UpdateRefused with this reason.

        Raises:
            ValueRefused: the reason is empty or too long.
            DefinitionError: it was answered or refused before.
        """
        if not 0 < len(reason) <= 2_000:
            raise ValueRefused("request.refuse(…) needs a reason of 1 to 2,000 characters")
        self._tell(json.dumps({"refused": reason}))

    def _tell(self, payload: str) -> None:
        if self._told:
            raise DefinitionError(f"{self!r} was answered or refused before: its sender reads the first word only")
        self._program.ask(EventKind.UPDATE_ANSWERED, key=self._id, payload=payload)
        self._told = True
