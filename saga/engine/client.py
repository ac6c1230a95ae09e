"""What an application calls: start a run, and ask or tell it something through its handle. One INSERT each, no broker.

It never writes a run itself: the shard's coordinator does. Reading first is courtesy, and locks nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast
from uuid import UUID, uuid4

from saga.core import inside
from saga.core.address import check_key, new_run_id
from saga.core.context import Context
from saga.core.definition import SagaDefinition
from saga.core.errors import (
    ConfigurationError,
    DefinitionError,
    RunEnded,
    RunExists,
    RunFailed,
    RunStalled,
    UnknownSignal,
    UpdateRefused,
    ValueRefused,
)
from saga.core.events import Event, EventKind, start_payload
from saga.core.lifecycle import ENDED, Status
from saga.core.outcome import json_after
from saga.core.signals import Signal, Update, signal_payload
from saga.engine.installation import Installation, current_installation
from saga.engine.line import Line
from saga.engine.store.reading import FoundRun
from saga.engine.stuck import occurrence_of, result_of

In = TypeVar("In")
Out = TypeVar("Out")
T = TypeVar("T")
Answer = TypeVar("Answer")


class Saga(SagaDefinition, Generic[In, Out]):
    """A declared saga: start it, or get the handle of a run of it."""

    function: Callable[[Context, In], Out]

    def start(self, given: In, /, *, id: str, session: Any = None, connection: Any = None) -> Handle[Out]:
        """Start a run under a business key, for ever unique for this saga; starting it again returns the same run.

        With `session=` (SQLAlchemy) or `connection=` (SQLAlchemy, psycopg, any DBAPI, Django's) the start joins the
        caller's transaction: there is a run if and only if that commits. Alone it is one INSERT.

        Raises:
            ValueRefused: the input or the key cannot be stored; nothing was sent.
            RunExists: the key was started with another input; in the caller's transaction nobody looks, and
                `handle.created` and `handle.result` say so later.
            AcceptanceUnknown: Postgres did not answer, also not when asked again: it may have been accepted. Start it
                again with the same id. In the caller's transaction all errors are those of the caller's driver.
            ConfigurationError: no database is set or reachable, or both `session=` and `connection=` are given; nothing
                was sent.
            SchemaError: the tables are not there; the caller's transaction can only be rolled back.
            DefinitionError: called inside a saga function.
        """
        if inside.saga_function():
            raise DefinitionError(
                f"{self.name}.start(…) inside a saga function: only steps may do I/O; start it in a step"
            )
        target = _one_of(session, connection)
        installation = current_installation()
        text = installation.codec.encode_saga_input(self, given)
        return cast("Handle[Out]", start_run(installation, self, check_key(id), text, target))

    def handle(self, id: str, /) -> Handle[Out]:
        """Return the handle of a run by its key, whether or not it exists yet."""
        return Handle(current_installation(), self.name, check_key(id), definition=self)


def start_run(installation: Installation, saga: SagaDefinition, key: str, text: str, target: Any = None) -> Handle[Any]:
    """Send a start whose input is JSON text already. Raises as `Saga.start` does."""
    digest = hashlib.sha256(text.encode()).digest()
    handle: Handle[Any] = Handle(
        installation, saga.name, key, definition=saga, input_digest=digest, proposed=new_run_id()
    )
    if target is None:
        found = handle._line.find()
        if found is not None:
            handle._check_input(found)
            return handle
    payload = start_payload(saga.version, saga.timeout_seconds, text)
    handle._line.send(EventKind.RUN_STARTED, payload=payload, run=handle._proposed, lane=1, target=target)
    return handle


class Handle(Generic[Out]):
    """One run, by its address `saga/key`. It holds no connection and may be kept."""

    def __init__(
        self,
        installation: Installation,
        saga: str,
        key: str,
        *,
        definition: SagaDefinition | None = None,
        input_digest: bytes | None = None,
        proposed: UUID | None = None,
    ) -> None:
        self.saga = saga
        self.key = key
        self._line = Line(installation, saga, key)
        self._definition = definition
        self._input_digest = input_digest
        self._proposed = proposed

    def __repr__(self) -> str:
        return f"<run {self.address}>"

    @property
    def address(self) -> str:
        """`checkout/order-7`."""
        return self._line.address

    @property
    def created(self) -> bool:
        """Whether this handle's start made the run; False when the key had been started before.

        Raises:
            UnknownRun: the start is not committed, or no coordinator has taken it yet.
            RunExists: the key was started with another input.
            ConfigurationError: no database is set, or it does not answer.
        """
        found = self._line.need()
        self._check_input(found)
        return found.row.id == self._proposed

    def status(self) -> Status:
        """Return where the run stands.

        Raises:
            UnknownRun: there is no such run, or no coordinator has taken its start yet.
            ConfigurationError: no database is set, or it does not answer.
        """
        return Status(self._line.need().row.status)

    def history(self) -> list[Event]:
        """Return the run's log, in order.

        Raises:
            UnknownRun: there is no such run, or no coordinator has taken its start yet.
            DecodeFailed: newer code has written in it what this code does not know.
            ConfigurationError: no database is set, or it does not answer.
        """
        id, reading = self._line.need().row.id, self._line.installation.reading
        return self._line.ask(lambda connection: reading.log(connection, id))

    def result(self, timeout: float = 30.0) -> Out:
        """Wait for the run's end, up to `timeout` seconds, and return its result.

        Where Postgres takes what is asked and never answers, it may take three seconds more.

        Raises:
            ResultTimeout: it has not ended in that time; the message says what is known, such as "not committed yet".
            RunFailed: it ended compensated or terminated.
            RunStalled: it stands in front of an operator.
            RunExists: the key was started with another input.
            DecodeFailed: its result does not fit this code.
            ConfigurationError: no database is set.
        """

        def ended() -> FoundRun | None:
            found = self._line.find()
            if found is None:
                return None
            self._check_input(found)
            return found if found.row.status in ENDED or found.row.status == Status.STALLED else None

        return self._outcome(self._line.until(ended, timeout, lambda: self._line.why_not(self._line.look(), timeout)))

    def cancel(self, *, session: Any = None, connection: Any = None) -> None:
        """Ask for the run to be undone; past its pivot it is refused, and the log says so.

        With `session=` or `connection=` it joins the caller's transaction, as a start does: it is asked if and only if
        that commits. Then nobody looks first whether there is such a run; a cancel that no run can take is kept as an
        incident.

        Raises:
            UnknownRun: there is no such run.
            RunEnded: it has ended.
            AcceptanceUnknown: Postgres did not answer, and it may have been accepted.
            ConfigurationError: no database is set or reachable, or both `session=` and `connection=` are given; nothing
                was sent.
            SchemaError: the tables are not there; the caller's transaction can only be rolled back.
        """
        self._line.tell(EventKind.CANCEL_REQUESTED, target=_one_of(session, connection))

    def terminate(self) -> None:
        """End the run where it stands. Nothing is undone: what its steps did stays.

        Raises:
            UnknownRun: there is no such run.
            RunEnded: it has ended.
            AcceptanceUnknown: Postgres did not answer, and it may have been accepted.
            ConfigurationError: no database is set or reachable; nothing was sent.
        """
        self._line.tell(EventKind.TERMINATE_REQUESTED)

    def retry(self, step: str | None = None) -> str | None:
        """Let a stalled run go on: its stuck steps, or the one that is named, get their attempts again.

        `step` is a name such as `payments.charge_card`, with its number (`#1`) where several are stuck. Returns the
        occurrence that was meant, if one was.

        Raises:
            UnknownRun: there is no such run.
            ValueRefused: it is not stalled, or the step is not stuck; the message lists what is.
            DecodeFailed: newer code has written in its log what this code does not know.
            AcceptanceUnknown: Postgres did not answer, and it may have been accepted.
            ConfigurationError: no database is set or reachable; nothing was sent.
        """
        if step is None:
            status = self.status()
            if status is not Status.STALLED:
                raise ValueRefused(f"run {self.address} is {status}: only a stalled run can be retried or resolved")
            self._line.tell(EventKind.RETRY_REQUESTED)
            return None
        occurrence = occurrence_of(self._line.fold(), self.address, step)
        self._line.tell(EventKind.RETRY_REQUESTED, dedupe=occurrence)
        return occurrence

    def resolve(self, step: str, *, evidence: str, result: str | None = None) -> str:
        """Settle a stuck step by an operator's evidence.

        Its compensation counts as undone; its action as done, with `result` (JSON text). `step` is named as for
        `retry`. Returns the occurrence that was meant.

        Raises:
            UnknownRun: there is no such run.
            ValueRefused: the step is not stuck, the evidence is empty, or the result does not fit the step.
            DecodeFailed: newer code has written in its log what this code does not know.
            AcceptanceUnknown: Postgres did not answer, and it may have been accepted.
            ConfigurationError: no database is set or reachable; nothing was sent.
        """
        if not evidence.strip():
            raise ValueRefused("resolve needs evidence: say who looked where and saw what")
        state = self._line.fold()
        occurrence = occurrence_of(state, self.address, step)
        text = result_of(state, self._line.installation.definitions, occurrence, result)
        payload = f'{{"evidence":{json.dumps(evidence)},"result":{text}}}'
        self._line.tell(EventKind.RESOLVED, dedupe=occurrence, payload=payload)
        return occurrence

    def send(
        self,
        signal: Signal[T],
        value: T,
        /,
        *,
        id: str | None = None,
        session: Any = None,
        connection: Any = None,
    ) -> None:
        """Send a signal to the run. It is kept until the saga waits for it; one with an `id` sent before is dropped.

        With `session=` or `connection=` it joins the caller's transaction, as a start does.

        Raises:
            ValueRefused: the value does not fit the signal's type, or the id is no text of 1 to 200 characters.
            UnknownSignal: the saga does not declare this signal.
            UnknownRun: there is no such run.
            RunEnded: it has ended.
            AcceptanceUnknown: Postgres did not answer, and it may have been accepted; the message has the id with which
                it can be sent again. In the caller's transaction all errors are those of the caller's driver.
            ConfigurationError: no database is set or reachable, or both `session=` and `connection=` are given; nothing
                was sent.
            SchemaError: the tables are not there; the caller's transaction can only be rolled back.
        """
        self._signal(signal, value, id, session=session, connection=connection)

    def update(self, update: Update[T, Answer], value: T, /, *, id: str | None = None, timeout: float = 30.0) -> Answer:
        """Send an update to the run, wait up to `timeout` seconds for its answer, and return it.

        Sent again with the same `id` it is done once, and answered alike. An outage after it was sent is waited out, as
        by `result`.

        Raises:
            UpdateRefused: the saga refused it.
            ResultTimeout: there was no answer in that time; it may come later: ask again with the id that it names.
            RunEnded: the run ended without an answer.
            ValueRefused: the value does not fit.
            UnknownSignal: the saga does not declare this update.
            UnknownRun: there is no such run.
            AcceptanceUnknown: Postgres did not answer, and it may have been accepted: ask again with the id that the
                message names.
            ConfigurationError: no database is set or reachable; nothing was sent.
        """
        said = None if id is None else self._line.answer(id)[0]
        if said is None:
            sent = self._signal(update, value, id)

            def answered() -> str | None:
                answer, ended = self._line.answer(sent)
                if answer is None and ended:
                    raise RunEnded(f"run {self.address} ended without an answer to update {update.name}")
                return answer

            late = f"run {self.address} has not answered update {update.name} (id {sent}) after {timeout:g} s"
            said = self._line.until(answered, timeout, lambda: late)
        refused = json.loads(said).get("refused")
        if refused is not None:
            raise UpdateRefused(refused)
        return cast(Answer, self._line.installation.codec.decode_answer(update, json_after(said, "answer")))

    def state(self) -> Any:
        """Return what the saga showed last by `ctx.set_state`, as plain JSON; None where it has shown nothing.

        Raises:
            UnknownRun: there is no such run, or no coordinator has taken its start yet.
            ConfigurationError: no database is set, or it does not answer.
        """
        found = self._line.need()
        return None if found.state is None else json.loads(found.state)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _signal(
        self, signal: Signal[T], value: T, id: str | None, *, session: Any = None, connection: Any = None
    ) -> str:
        if self._definition is not None and signal not in self._definition.signals:
            known = ", ".join(known.name for known in self._definition.signals) or "none"
            raise UnknownSignal(
                f"saga {self.saga} declares no signal {signal.name!r} (it declares: {known}): "
                "write it into @saga(…, signals=[…])"
            )
        if id is not None and not 1 <= len(id) <= 200:
            raise ValueRefused(f"id={id!r}: expected 1 to 200 characters")
        id = id or str(uuid4())
        payload = signal_payload(signal.name, self._line.installation.codec.encode_signal(signal, value))
        self._line.tell(EventKind.SIGNAL_RECEIVED, dedupe=id, payload=payload, target=_one_of(session, connection))
        return id

    def _check_input(self, found: FoundRun) -> None:
        if self._input_digest is not None and found.row.input_digest != self._input_digest:
            raise RunExists(
                f"run {self.address} exists with another input (it is {found.row.status}): "
                "a key names one run for ever; choose another id, or start it with the same input"
            )

    def _outcome(self, found: FoundRun) -> Out:
        row = found.row
        if row.status == Status.COMPLETED:
            if self._definition is None:
                raise ConfigurationError(f"saga {self.saga} is not defined here: its result cannot be read")
            return cast(Out, self._line.installation.codec.decode_output(self._definition, found.result or "null"))
        said = json.loads(found.failure) if found.failure else {}
        if row.status == Status.STALLED:
            raise RunStalled(self.address, row.status, row.reason or "", said.get("message", ""))
        raise RunFailed(self.address, row.status, row.cause or "", said.get("message", ""))


def _one_of(session: Any, connection: Any) -> Any:
    """Return whose transaction is joined, if any."""
    if session is not None and connection is not None:
        raise ConfigurationError(
            "session= and connection= name two transactions, and only one can be joined: pass one of them; "
            "nothing was sent"
        )
    return connection if session is None else session
