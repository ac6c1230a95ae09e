"""Sagas on Celery: step/compensate pairs that survive any kill, with the step log in your Postgres."""

from saga.core.context import Context, Pending
from saga.core.current import current
from saga.core.definition import Step, VoidStep
from saga.core.errors import (
    Abort,
    ConfigurationError,
    DecodeFailed,
    DefinitionError,
    ResultTimeout,
    RetryLater,
    RunEnded,
    RunExists,
    RunFailed,
    RunStalled,
    SagaError,
    SchemaError,
    StepFailed,
    UnknownRun,
    UnknownSaga,
    ValueRefused,
)
from saga.core.lifecycle import Cause, StallReason, Status
from saga.core.retry import Retry
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
    "Retry",
    "Saga",
    "Step",
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
    "ConfigurationError",
    "DecodeFailed",
    "DefinitionError",
    "ResultTimeout",
    "RunEnded",
    "RunExists",
    "RunFailed",
    "RunStalled",
    "SagaError",
    "SchemaError",
    "StepFailed",
    "UnknownRun",
    "UnknownSaga",
    "ValueRefused",
]
