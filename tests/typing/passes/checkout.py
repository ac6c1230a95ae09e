"""What users write: every type here is exact, for mypy --strict and for pyright."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

from saga import Abort, Context, Handle, Pending, Retry, Saga, Step, StepFailed, VoidStep, saga, sequence, step


@dataclass(frozen=True, slots=True)
class Order:
    id: str
    total_cents: int


@dataclass(frozen=True, slots=True)
class Payment:
    reference: str


@dataclass(frozen=True, slots=True)
class Parcel:
    reference: str


@step(retry=Retry(attempts=5), timeout=10)
def charge_card(order: Order, cents: int = 0) -> Payment:
    if order.total_cents > 1_000:
        raise Abort("too dear")
    return Payment(order.id)


@charge_card.compensate(retry=Retry(attempts=None), deadline=3_600)
def refund_card(payment: Payment | None, order: Order, cents: int = 0) -> None: ...


@charge_card.probe
def find_charge(order: Order, cents: int = 0) -> Payment | None:
    return None


@step
async def book_parcel(order: Order) -> Parcel:
    return Parcel(order.id)


@book_parcel.compensate
async def cancel_parcel(parcel: Parcel | None, order: Order) -> None: ...


@step
def send_receipt(order: Order) -> None: ...


@send_receipt.compensate
def apologise(order: Order) -> None: ...


@send_receipt.probe
def find_receipt(order: Order) -> bool:
    return False


@step(timeout=None)
async def archive(order: Order) -> None: ...


@archive.compensate(timeout=3)
async def unarchive(order: Order) -> None: ...


@saga("checkout", version=2, timeout=3_600)
def checkout(ctx: Context, order: Order) -> Parcel:
    assert_type(ctx.run(charge_card, order), Payment)
    ctx.run(charge_card.with_options(timeout=3), order, cents=4)
    ctx.pivot()
    parcel = ctx.start(book_parcel, order)
    assert_type(parcel, Pending[Parcel])
    receipt = ctx.start(send_receipt, order)
    assert_type(receipt, Pending[None])
    assert_type(ctx.gather(parcel, receipt), tuple[Parcel, None])
    assert_type(ctx.gather(*[ctx.start(charge_card, order) for _ in range(3)]), tuple[Payment, ...])
    return parcel.result()


@saga("race")
def race(ctx: Context, order: Order) -> None:
    a, b = ctx.start(charge_card, order), ctx.start(charge_card, order, 3)
    winner = ctx.first(a, b)
    assert_type(winner, Pending[Payment])
    try:
        ctx.run(send_receipt, order)
    except StepFailed as failed:
        assert_type(failed.reason, str)


def start(order: Order) -> Parcel:
    handle = checkout.start(order, id="order-7")
    assert_type(handle, Handle[Parcel])
    return handle.result(timeout=3)


listed = sequence("listed", Order, charge_card, send_receipt)

assert_type(checkout, Saga[Order, Parcel])
assert_type(race, Saga[Order, None])
assert_type(listed, Saga[Order, Any])
assert_type(charge_card(Order("1", 1)), Payment)
checked_step: Step[[Order], Parcel] = book_parcel
checked_void: VoidStep[[Order]] = send_receipt
