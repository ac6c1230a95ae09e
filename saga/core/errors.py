"""Every error the framework raises, in one shallow tree. It knows no definitions, no database and no Celery."""

from __future__ import annotations

from typing import Any


class SagaError(Exception):
    """The root of every error of this package. Arguments are kept in `args`, so each one survives pickling."""


class DefinitionError(SagaError):
    """Raised when a step or saga is declared in a way that cannot work; the message says what to write instead."""


class ConfigurationError(SagaError):
    """Raised when a setting, the database or the broker is missing or unsafe; the message says what to set."""


class DatabaseUnreachable(ConfigurationError):
    """Raised when Postgres does not answer at the URL that is set."""


class SchemaError(ConfigurationError):
    """Raised when the tables are missing, older or newer than this code."""


class AcceptanceUnknown(SagaError):
    """Raised when Postgres did not answer what was sent, which may be accepted; the message says what to send again."""


class UnknownSaga(SagaError):
    """Raised when no saga of that name, or no such version of it, is defined in this application."""


class UnknownRun(SagaError):
    """Raised when no run has that address, or its start is not committed yet."""


class RunExists(SagaError):
    """Raised when a key is started again with another input; the first input stays."""


class RunEnded(SagaError):
    """Raised when something is asked of a run that has ended."""


class ValueRefused(SagaError):
    """Raised when a value cannot be stored: it does not fit its type, is not JSON, or is larger than its limit."""


class DecodeFailed(SagaError):
    """Raised when stored JSON does not fit the type this code declares; nothing was run."""


class ResultTimeout(SagaError, TimeoutError):
    """Raised when a run has not ended within the seconds that the caller would wait."""


class ReplayMismatch(SagaError):
    """Raised when the code asks for something else than its log recorded; the run stalls until the code fits."""


class LimitReached(SagaError):
    """Raised when a run would outgrow a documented limit; the run stalls."""


class StepFailed(SagaError):
    """Raised into a saga when a step is settled as failed: nothing of it stands.

    `step` is the occurrence, such as `payments.charge_card#1`; `reason` is what the last attempt said.
    """

    def __init__(self, step: str, reason: str, error_type: str = "") -> None:
        super().__init__(step, reason, error_type)
        self.step = step
        self.reason = reason
        self.error_type = error_type

    def __str__(self) -> str:
        return f"{self.step} failed: {self.reason}"


class ChildFailed(StepFailed):
    """Raised into a saga when a child run ended otherwise than completed: it is undone, and nothing of it stands."""


class LockTaken(StepFailed):
    """Raised into a saga when a semantic lock is another run's, or did not come free in time."""


class SignalTimeout(SagaError):
    """Raised into a saga when a signal did not come in time. Leave it uncaught and the run is undone."""

    def __init__(self, signal: str, seconds: float) -> None:
        super().__init__(signal, seconds)
        self.signal = signal
        self.seconds = seconds

    def __str__(self) -> str:
        return f"signal {self.signal} did not come in {self.seconds:g} s"


class UnknownSignal(SagaError):
    """Raised when a run is sent something that its saga does not declare."""


class UpdateRefused(SagaError):
    """Raised by `handle.update()` when the saga refused it; the message is the saga's."""


class RunFailed(SagaError):
    """Raised by `handle.result()` when the run ended in another way than completed.

    `status` is the run's status, `cause` why it was undone (failed, cancelled, timed out) or an empty string.
    """

    def __init__(self, run: str, status: str, cause: str = "", reason: str = "") -> None:
        super().__init__(run, status, cause, reason)
        self.run = run
        self.status = status
        self.cause = cause
        self.reason = reason

    def __str__(self) -> str:
        because = f" ({self.cause})" if self.cause else ""
        return f"run {self.run} ended {self.status}{because}: {self.reason or 'no reason recorded'}"


class RunStalled(RunFailed):
    """Raised by `handle.result()` when the run stands stalled in front of an operator; it has not ended."""


class Abort(Exception):
    """Raise it in an action to assert that nothing landed: no retry, no undo of this step, undo the rest.

    Raised in a saga function it ends the run in undo; raised in a compensation it stalls the run at once.
    """

    def __init__(self, reason: str = "aborted") -> None:
        super().__init__(reason)
        self.reason = reason


class RetryLater(Exception):
    """Raise it in an action, compensation or probe to be asked again with the same token.

    No attempt is used up; `after` is in seconds; the deadline still counts.
    """

    def __init__(self, after: float = 1.0) -> None:
        if not 0 <= after <= 30 * 86_400:
            raise ValueError(f"RetryLater(after={after!r}): expected seconds between 0 and {30 * 86_400}")
        super().__init__(after)
        self.after_seconds = after


def describe(error: BaseException, limit_characters: int = 2_000) -> dict[str, Any]:
    """Turn an exception into the JSON object that the log keeps: its type and a bounded message."""
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    try:
        message = str(error)
    except Exception:
        message = "its message cannot be read: its __str__ raises"
    return {"type": f"{module}{kind.__qualname__}", "message": message[:limit_characters]}
