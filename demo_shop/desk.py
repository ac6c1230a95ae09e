"""The shop's own address: customers start and cancel runs here, and outside services tell what runs wait for.

`python -m demo_shop.desk --port N` listens until a signal. What comes in by `/hooks` becomes a signal of a run; the
service's id of the event goes along, so that what is told twice is one. It must not know services, ledgers or kills.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from demo_shop.app import food, loan, ride
from demo_shop.jsonhttp import JsonHandler, JsonServer
from saga import ResultTimeout, RunEnded, RunExists, RunFailed, Saga, Signal, UnknownRun, ValueRefused
from tasks.values import LoanApplication, MealOrder, RideRequest

#: The processes by the name of their saga, each with what it is started with.
PROCESSES: dict[str, tuple[Saga[Any, Any], type]] = {
    ride.name: (ride, RideRequest),
    loan.name: (loan, LoanApplication),
    food.name: (food, MealOrder),
}


class _Nowhere(Exception):
    """Raised for an address that the desk does not have."""


class _Handler(JsonHandler):
    def post(self, body: dict[str, Any]) -> None:
        with self._telling():
            self._post(self._parts(), body)

    def get(self) -> None:
        with self._telling():
            match self._parts():
                case ["runs", name, key]:
                    self.answer(200, _told(_process(name)[0], key))
                case _:
                    raise _Nowhere(self.path)

    def _post(self, parts: list[str], body: dict[str, Any]) -> None:
        match parts:
            case ["runs", name, key]:
                definition, given = _process(name)
                definition.start(TypeAdapter(given).validate_python(body), id=key)
                self.answer(201, {"run": f"{name}/{key}"})
            case ["cancels", name, key]:
                _process(name)[0].handle(key).cancel()
                self.answer(202, {})
            case ["hooks", name, key, what]:
                definition, _ = _process(name)
                told = _signal(definition, what)
                value = TypeAdapter(told.carries).validate_python(body)
                definition.handle(key).send(told, value, id=self.headers.get("Idempotency-Key"))
                self.answer(202, {})
            case _:
                raise _Nowhere(self.path)

    def _parts(self) -> list[str]:
        return self.path.strip("/").split("/")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Answer with what went wrong, if anything did."""
        try:
            yield
        except _Nowhere as error:
            self.answer(404, {"error": f"the desk has no {error}"})
        except UnknownRun as error:
            self.answer(404, {"error": str(error)})
        except (RunEnded, RunExists) as error:
            self.answer(409, {"error": str(error)})
        except (ValueRefused, ValidationError) as error:
            self.answer(400, {"error": str(error)})
        except Exception as error:  # such as a database that is away: whoever asked asks again
            print(f"{self.path}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            self.answer(503, {"error": str(error)})


def _process(name: str) -> tuple[Saga[Any, Any], type]:
    if name not in PROCESSES:
        raise _Nowhere(name)
    return PROCESSES[name]


def _signal(definition: Saga[Any, Any], name: str) -> Signal[Any]:
    for declared in definition.signals:
        if declared.name == name:
            return declared
    raise _Nowhere(f"{definition.name}/…/{name}")


def _told(definition: Saga[Any, Any], key: str) -> dict[str, Any]:
    """Return what the client of a run is told: its status, and its result or why there is none."""
    handle = definition.handle(key)
    try:
        result = handle.result(timeout=0)
    except ResultTimeout:
        return {"status": handle.status()}
    except RunFailed as error:
        return {"status": error.status, "cause": error.cause, "reason": error.reason}
    return {"status": "completed", "result": {"answer": type(result).__name__, **asdict(result)}}


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 takes a free one.")
def open_desk(port: int) -> None:
    """Listen until a signal; the address is printed first."""
    JsonServer(port, _Handler).serve_until_signal()


if __name__ == "__main__":
    open_desk()
