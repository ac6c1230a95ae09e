"""Compensations and probes that do not fit their action: each marked line must fail, with these codes, and no other."""

from __future__ import annotations

from saga import step


@step
def charge_card(order: str) -> int:
    return 1


@charge_card.compensate  # mypy: arg-type; pyright: reportArgumentType
def without_result(order: str) -> None: ...


@step
def second(order: str) -> int:
    return 1


@second.compensate  # mypy: arg-type; pyright: reportArgumentType
def result_never_none(result: int, order: str) -> None: ...


@step
def third(order: str) -> int:
    return 1


@third.compensate(deadline=3)  # mypy: arg-type; pyright: reportArgumentType
def other_input(result: int | None, order: bytes) -> None: ...


@third.probe  # mypy: arg-type; pyright: reportArgumentType
def other_result(order: str) -> str | None:
    return None


@step
def fourth(order: str) -> int:
    return 1


@fourth.probe  # mypy: arg-type; pyright: reportArgumentType
def with_result(result: int | None, order: str) -> int | None:
    return None


@step
def fifth(order: str) -> None: ...


@fifth.compensate  # mypy: arg-type; pyright: reportArgumentType
def of_a_void_step(result: int | None, order: str) -> None: ...


@fifth.probe  # mypy: arg-type; pyright: reportArgumentType
def no_bool(order: str) -> int:
    return 1


@step
async def sixth(order: str) -> None: ...


@sixth.compensate(timeout=3)  # mypy: arg-type; pyright: reportArgumentType
async def of_an_async_void_step(result: None, order: str) -> None: ...


@step(retries=3)  # mypy: call-overload, untyped-decorator; pyright: reportCallIssue
def unknown_option(order: str) -> int:
    return 1
