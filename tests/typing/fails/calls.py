"""Wrong calls of steps and sagas: each marked line must fail, with these codes, and no other line may."""

from __future__ import annotations

from saga import Context, saga, step


@step
def charge_card(order: str, cents: int) -> int:
    return cents


@step
def send_receipt(order: str) -> None: ...


@saga("checkout")
def checkout(ctx: Context, order: str) -> int:
    ctx.run(charge_card, order)  # mypy: call-overload; pyright: reportCallIssue
    ctx.run(charge_card, order, "3")  # mypy: call-overload; pyright: reportArgumentType, reportCallIssue
    ctx.run(charge_card, order, 3, 4)  # mypy: call-overload; pyright: reportCallIssue
    ctx.run(charge_card, order, euros=3)  # mypy: call-arg; pyright: reportCallIssue
    ctx.start(send_receipt, 7)  # mypy: call-overload; pyright: reportArgumentType, reportCallIssue
    text: str = ctx.run(charge_card, order, 3)  # mypy: assignment; pyright: reportAssignmentType
    number: int = ctx.start(charge_card, order, 3)  # mypy: assignment; pyright: reportAssignmentType
    both: tuple[int, str] = ctx.gather(ctx.start(charge_card, order, 1), ctx.start(charge_card, order, 2))  # mypy: assignment; pyright: reportAssignmentType
    winner: str = ctx.first(ctx.start(charge_card, order, 1), ctx.start(charge_card, order, 2)).result()  # mypy: assignment; pyright: reportAssignmentType
    ctx.run(len, order)  # mypy: call-overload; pyright: reportArgumentType, reportCallIssue
    return len(text) + number + len(both) + len(winner)


def outside() -> None:
    charge_card(7, 3)  # mypy: arg-type; pyright: reportArgumentType
    checkout.start(7, id="order-7")  # mypy: arg-type; pyright: reportArgumentType
    checkout.start("x")  # mypy: call-arg; pyright: reportCallIssue
    result: str = checkout.start("x", id="order-7").result()  # mypy: assignment; pyright: reportAssignmentType
    result.upper()


@saga("no input")  # mypy: arg-type; pyright: reportArgumentType
def no_input(ctx: Context) -> int:
    return 1


@saga  # mypy: arg-type; pyright: reportArgumentType
def no_name(ctx: Context, order: str) -> int:
    return 1
