"""The steps of the unit tests, one of each sort. Only `play` runs their functions; what they do is not the point."""

from __future__ import annotations

from saga import Retry, step

#: No jitter: delays can be compared.
PLAIN = Retry(attempts=3, first_seconds=10, jitter=0)


@step(retry=PLAIN)
def stock(n: int) -> int:
    return n + 1


@stock.compensate(retry=Retry(attempts=2, first_seconds=10, jitter=0))
def unstock(result: int | None, n: int) -> None:
    return None


@step(retry=PLAIN)
def charge(n: int) -> int:
    return n * 10


@charge.compensate(retry=Retry(attempts=2, first_seconds=10, jitter=0))
def refund(result: int | None, n: int) -> None:
    return None


@step(retry=PLAIN)
def ship(n: int) -> int:
    """It has a probe."""
    return n * 100


@ship.compensate(retry=Retry(attempts=2, first_seconds=10, jitter=0))
def unship(result: int | None, n: int) -> None:
    return None


@ship.probe
def find_shipment(n: int) -> int | None:
    return None


@step(retry=PLAIN)
def mail(n: int) -> None:
    """It returns nothing, and has both."""


@mail.compensate(retry=Retry(attempts=2, first_seconds=10, jitter=0))
def apologise(n: int) -> None:
    return None


@mail.probe
def find_mail(n: int) -> bool:
    return False


@step(retry=PLAIN)
def look(n: int) -> int:
    """It needs no undo."""
    return n


@step(retry=PLAIN, deadline=60)
def hurry(n: int) -> int:
    """It has a deadline of 60 s."""
    return n


@hurry.compensate
def unhurry(result: int | None, n: int) -> None:
    return None


@step(retry=PLAIN, transactional=True)
def book(n: int) -> int:
    return n


@book.compensate
def unbook(result: int | None, n: int) -> None:
    return None
