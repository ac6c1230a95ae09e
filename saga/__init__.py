"""Sagas on Celery: step/compensate pairs that survive any kill, with the step log in your Postgres."""

from saga.core.context import Context, Savepoint
from saga.core.current import current
from saga.core.definition import Step, VoidStep
from saga.core.errors import (
    Abort,
    AcceptanceUnknown,
    ChildFailed,
    ConfigurationError,
    DecodeFailed,
    DefinitionError,
    LockTaken,
    ReplayMismatch,
    ResultTimeout,
    RetryLater,
    RunEnded,
    RunExists,
    RunFailed,
    RunStalled,
    SagaError,
    SchemaError,
    SignalTimeout,
    StepFailed,
    UnknownRun,
    UnknownSaga,
    UnknownSignal,
    UpdateRefused,
    ValueRefused,
)
from saga.core.lifecycle import Cause, StallReason, Status
from saga.core.pending import Pending, Request
from saga.core.retry import Retry
from saga.core.signals import Signal, Update
from saga.declare import saga, sequence, step
from saga.engine.client import Handle, Saga
from saga.engine.installation import install

__all__ = [
    # define
    "saga",
    "sequence",
    "step",
    "Context",
    "Pending",
    "Request",
    "Retry",
    "Saga",
    "Savepoint",
    "Signal",
    "Step",
    "Update",
    "VoidStep",
    # inside a step
    "current",
    "Abort",
    "RetryLater",
    # run
    "install",
    "Handle",
    "Cause",
    "StallReason",
    "Status",
    # errors
    "AcceptanceUnknown",
    "ChildFailed",
    "ConfigurationError",
    "DecodeFailed",
    "DefinitionError",
    "LockTaken",
    "ReplayMismatch",
    "ResultTimeout",
    "RunEnded",
    "RunExists",
    "RunFailed",
    "RunStalled",
    "SagaError",
    "SchemaError",
    "SignalTimeout",
    "StepFailed",
    "UnknownRun",
    "UnknownSaga",
    "UnknownSignal",
    "UpdateRefused",
    "ValueRefused",
]
