"""What a step can know of its own attempt while it runs: `saga.current`. It is set by whoever runs the step."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from saga.core.errors import SagaError


@dataclass(slots=True)
class Attempt:
    """One attempt at a step."""

    token: UUID
    action_token: UUID
    attempt: int
    run: str  #: `checkout/order-7`
    step: str
    connection: Any = None  #: a SQLAlchemy connection, in a transactional step
    fenced: bool = False
    progress: str | None = None  #: JSON text: what an earlier attempt told last
    beat: Callable[[Any], None] | None = None  #: tells that the attempt goes on, and how far it is


attempt_now: ContextVar[Attempt | None] = ContextVar("saga_attempt", default=None)


class Current:
    """The attempt that runs in this context; `saga.current` is its one instance."""

    @property
    def _attempt(self) -> Attempt:
        attempt = attempt_now.get()
        if attempt is None:
            raise SagaError(
                "saga.current was used outside a running step: "
                "in a unit test wrap the call in `with saga.testing.attempt():`"
            )
        return attempt

    @property
    def token(self) -> str:
        """The idempotency token, the same for every attempt of this direction. Send it as Idempotency-Key."""
        return str(self._attempt.token)

    @property
    def action_token(self) -> str:
        """The token of the action that a compensation undoes or a probe looks for; in an action, its own."""
        return str(self._attempt.action_token)

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        return self._attempt.attempt

    @property
    def run(self) -> str:
        """The run's address, such as `checkout/order-7`."""
        return self._attempt.run

    @property
    def connection(self) -> Any:
        """The SQLAlchemy connection of a transactional step: its commit also records the outcome."""
        connection = self._attempt.connection
        if connection is None:
            raise SagaError(f"step {self._attempt.step} is not transactional: declare it @step(transactional=True)")
        return connection

    def heartbeat(self, progress: Any = None, /) -> None:
        """Tell that this attempt goes on, and how far it is: any value that is JSON, a dataclass or a model.

        Call it as often as you like: what comes too soon after the last beat waits for the next one, or for the
        outcome. Without `progress` the last one stands. Afterwards `fenced` says whether the claim was lost.

        Raises:
            ValueRefused: the progress cannot be stored, or is larger than PROGRESS_BYTES_MAX.
            SagaError: a transactional step tells progress, which would outlive its rollback.
        """
        attempt = self._attempt
        if progress is not None and attempt.connection is not None:
            raise SagaError(
                f"step {attempt.step} is transactional: what it did so far is rolled back if it fails, and its "
                "progress would say otherwise; call current.heartbeat() without progress"
            )
        if attempt.beat is not None:
            attempt.beat(progress)

    def progress(self) -> Any:
        """Return what the last attempt that told its progress said, as plain JSON; None where there is none."""
        told = self._attempt.progress
        return None if told is None else json.loads(told)

    @property
    def fenced(self) -> bool:
        """True once this attempt's claim was lost: stop, another attempt has taken over."""
        return self._attempt.fenced


current = Current()
