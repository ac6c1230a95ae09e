"""A bank of a few hot accounts, and the saga that moves money between two of them, over participants of two kinds.

The transactional participant moves money in the step's own transaction. The other one is a service with a database of
its own that keeps every token with what it did for it. They know no fault.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import psycopg
from sqlalchemy import text

from saga import Abort, Context, Retry, current, saga, step
from saga.core.definition import AnyStep, SagaDefinition
from tests.integration.application import folder
from tests.ledger import Call, Ledger

#: The database of the participants.
BANK_VARIABLE = "SAGA_TEST_BANK"
ACCOUNTS = ("ann", "bob", "cid")
OPENING_CENTS = 10_000

BANK = """
CREATE TABLE public.account (name text PRIMARY KEY, cents bigint NOT NULL CHECK (cents >= 0));
CREATE TABLE public.movement (token uuid PRIMARY KEY, done boolean NOT NULL);
GRANT SELECT, UPDATE ON public.account TO PUBLIC;
GRANT SELECT, INSERT, UPDATE ON public.movement TO PUBLIC;
"""

RETRY = Retry(attempts=None, first_seconds=0.05)


@dataclass(frozen=True)
class Transfer:
    """So much from one account to another; `refused`: the other bank does not take it."""

    source: str
    target: str
    cents: int
    refused: bool = False


_MOVE = "UPDATE public.account SET cents = cents + :cents WHERE name = :name AND cents + :cents >= 0"


def _note(step_name: str, direction: str) -> None:
    """Write down that a function was called, for the audit; what it left counts, so it may run again."""
    call = Call(current.run, step_name, direction, current.token, current.action_token, current.attempt)
    Ledger(folder() / "ledger.sqlite").attempted(call)


def _move(name: str, cents: int) -> None:
    """Move money in the step's own transaction, and note for which token: its undo may not know whether it did."""
    current.connection.execute(text("INSERT INTO public.movement VALUES (:token, true)"), {"token": current.token})
    if current.connection.execute(text(_MOVE), {"name": name, "cents": cents}).rowcount != 1:
        raise Abort(f"{name} has no cover")


def _move_back(name: str, cents: int) -> None:
    """Undo what the action's token stands for, if it was done."""
    done = current.connection.execute(
        text("UPDATE public.movement SET done = false WHERE token = :token AND done"), {"token": current.action_token}
    )
    if done.rowcount and current.connection.execute(text(_MOVE), {"name": name, "cents": cents}).rowcount != 1:
        raise RuntimeError(f"{name} has no cover at the moment")


@step(retry=RETRY, timeout=2, transactional=True)
def withdraw(transfer: Transfer) -> int:
    _note("withdraw", "transaction")
    _move(transfer.source, -transfer.cents)
    return transfer.cents


@withdraw.compensate(retry=RETRY)
def give_back(cents: int | None, transfer: Transfer) -> None:
    _move_back(transfer.source, transfer.cents)


@step(retry=RETRY, timeout=2, transactional=True)
def deposit(transfer: Transfer) -> int:
    _note("deposit", "transaction")
    _move(transfer.target, transfer.cents)
    if transfer.refused:
        raise Abort(f"{transfer.target} is closed")
    return transfer.cents


@deposit.compensate(retry=RETRY)
def take_back(cents: int | None, transfer: Transfer) -> None:
    _move_back(transfer.target, -transfer.cents)


@saga("transfer")
def transfer_money(ctx: Context, transfer: Transfer) -> int:
    """Take money here and bring it there, or give it back."""
    ctx.run(withdraw, transfer)
    return ctx.run(deposit, transfer)


def _ask_service(name: str, cents: int) -> None:
    """Move money once for a token, and remember the token with it; an action whose undo was seen is refused."""
    token = current.token
    with psycopg.connect(os.environ[BANK_VARIABLE]) as connection:
        made = connection.execute(
            "INSERT INTO public.movement (token, done) VALUES (%s, true) ON CONFLICT DO NOTHING", (token,)
        )
        if made.rowcount == 0:
            known = connection.execute("SELECT done FROM public.movement WHERE token = %s", (token,)).fetchone()
            if known is None or not known[0]:
                raise Abort("it was undone before it came")
            return
        moved = connection.execute(
            "UPDATE public.account SET cents = cents + %(cents)s WHERE name = %(name)s AND cents + %(cents)s >= 0",
            {"name": name, "cents": cents},
        )
        if moved.rowcount != 1:
            connection.rollback()
            raise Abort(f"{name} has no cover")


def _tell_service(name: str, cents: int) -> None:
    """Undo what was done for an action's token, once; and refuse that token from now on."""
    with psycopg.connect(os.environ[BANK_VARIABLE]) as connection:
        undone = connection.execute(
            "INSERT INTO public.movement AS m (token, done) VALUES (%s, false) ON CONFLICT (token) "
            "DO UPDATE SET done = false WHERE m.done RETURNING xmax <> 0",
            (current.action_token,),
        ).fetchone()
        if undone is not None and undone[0]:
            connection.execute("UPDATE public.account SET cents = cents + %s WHERE name = %s", (cents, name))


@step(retry=RETRY, timeout=2)
def draw_from_service(transfer: Transfer) -> int:
    _note("draw_from_service", "transaction")
    _ask_service(transfer.source, -transfer.cents)
    return transfer.cents


@draw_from_service.compensate(retry=RETRY)
def return_to_service(cents: int | None, transfer: Transfer) -> None:
    _tell_service(transfer.source, transfer.cents)


@step(retry=RETRY, timeout=2)
def pay_into_service(transfer: Transfer) -> int:
    _note("pay_into_service", "transaction")
    if transfer.refused:
        raise Abort(f"{transfer.target} is closed")
    _ask_service(transfer.target, transfer.cents)
    return transfer.cents


@pay_into_service.compensate(retry=RETRY)
def take_from_service(cents: int | None, transfer: Transfer) -> None:
    _tell_service(transfer.target, -transfer.cents)


@saga("service-transfer")
def transfer_by_service(ctx: Context, transfer: Transfer) -> int:
    """The same by a service that keeps tokens."""
    ctx.run(draw_from_service, transfer)
    return ctx.run(pay_into_service, transfer)


SAGAS: dict[tuple[str, int], SagaDefinition] = {
    (definition.name, definition.version): definition for definition in (transfer_money, transfer_by_service)
}
STEPS: tuple[AnyStep, ...] = (withdraw, deposit, draw_from_service, pay_into_service)
