"""How the hand-made approaches ask: again while nobody knows, never after a clear no, and back in reverse order."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from demo_shop.evolution import calling
from demo_shop.evolution.calling import Refused, Unanswered, ask
from demo_shop.evolution.single_server import SingleServer, fulfil
from tasks.values import Order

ORDER = Order(id="order-1", email="a@example.com", sku="cup", quantity=2, total_cents=1_400)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []
    monkeypatch.setattr(calling, "time", SimpleNamespace(sleep=waited.append))
    return waited


def answering(*answers: Exception | str) -> Callable[[], str]:
    left = list(answers)

    def call() -> str:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return call


def test_what_is_unanswered_is_asked_again_after_growing_waits(waits: list[float]) -> None:
    assert ask(answering(httpx.ReadTimeout("?"), httpx.ReadTimeout("?"), "done"), attempts=5) == "done"
    assert 0.4 <= waits[0] <= 0.5
    assert 0.8 <= waits[1] <= 1.0


def test_a_clear_no_is_taken_for_one(waits: list[float]) -> None:
    with pytest.raises(Refused, match="card declined"):
        ask(answering(Refused("card declined")), attempts=5)

    assert waits == []


def test_a_no_after_an_attempt_that_may_have_landed_speaks_for_itself_only(waits: list[float]) -> None:
    with pytest.raises(Unanswered, match="already undone"):
        ask(answering(httpx.ReadTimeout("?"), Refused("already undone")), attempts=5)


def test_when_the_attempts_are_used_up_nobody_knows(waits: list[float]) -> None:
    with pytest.raises(Unanswered):
        ask(answering(*[httpx.ReadTimeout("?")] * 3), attempts=3)

    assert len(waits) == 2


class Recorded:
    """Errands that write down that they were run; some go wrong."""

    def __init__(self, **wrong: Exception) -> None:
        self.run: list[str] = []
        self._wrong = wrong

    def __getattr__(self, name: str) -> Callable[..., str]:
        def errand(*_: Any) -> str:
            self.run.append(name)
            if name in self._wrong:
                raise self._wrong[name]
            return f"{name}-1"

        return errand


@pytest.mark.parametrize(
    ("wrong", "ended", "run"),
    [
        ({}, "completed", ["reserve", "charge", "book", "mail"]),
        ({"reserve": Refused()}, "compensated", ["reserve"]),
        ({"reserve": Unanswered()}, "compensated", ["reserve", "release"]),
        ({"charge": Refused()}, "compensated", ["reserve", "charge", "release"]),
        ({"charge": Unanswered()}, "compensated", ["reserve", "charge", "refund", "release"]),
    ],
)
def test_the_single_server_undoes_what_may_have_landed_newest_first(
    wrong: dict[str, Exception], ended: str, run: list[str]
) -> None:
    errands: Any = Recorded(**wrong)

    assert fulfil(errands, ORDER) == ended
    assert errands.run == run


class Yielding(io.StringIO):
    """A standard output that lets other threads run after every piece that is written."""

    def write(self, text: str) -> int:
        written = super().write(text)
        time.sleep(0)
        return written


def test_each_line_of_the_single_servers_log_is_one_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Yielding()
    monkeypatch.setattr("sys.stdout", said)
    errands: Any = Recorded()
    server = SingleServer(errands)

    with ThreadPoolExecutor(16) as customers:
        list(customers.map(lambda number: server.accept(replace(ORDER, id=f"order-{number}")), range(50)))
    server.close()

    expected = {f"order-{number} {what}" for number in range(50) for what in ("accepted", "completed")}
    assert set(said.getvalue().splitlines()) == expected
