"""Approach 2: an order's state is a row in Postgres, and goes on by commands and callbacks over Redis pub/sub.

One API process accepts orders and owns the rows; workers run the errands. Pub/sub forgets what nobody hears, so the API
sends a command again when no callback has come for a while, and for every open order when it starts. It must not know
who judges it. What is marked: all of that, and the handling of lost connections.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click
import psycopg
import redis

from demo_shop.evolution import flow
from demo_shop.evolution.calling import Services
from demo_shop.evolution.errands import Errands
from demo_shop.evolution.reception import decode_order, encode_order, serve
from demo_shop.evolution.storing import Database, open_redis
from tasks.values import Order

WORKERS = 2
#: Errands that a worker runs at once.
THREADS = 8
CALLBACKS = "checkpoints:callbacks"

#: `state` is the errand that is being run, or how the order ended.
TABLES = """
CREATE SCHEMA checkpoints;
CREATE TABLE checkpoints.checkout (
    id text PRIMARY KEY, placed text NOT NULL, state text NOT NULL, reservation text NOT NULL DEFAULT '', reason text,
    sent_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""

_PLACE = "INSERT INTO checkpoints.checkout (id, placed, state) VALUES (%s, %s, %s) ON CONFLICT (id) DO NOTHING"
# Only the errand that the row waits for moves it: a callback that comes twice, or too late, finds another state.
_MOVE = """
UPDATE checkpoints.checkout SET state = %s, reservation = coalesce(%s, reservation), reason = %s,
    sent_at = clock_timestamp()
WHERE id = %s AND state = %s RETURNING placed, state, reservation
"""
# failure handling: begin
_OVERDUE = """
UPDATE checkpoints.checkout SET sent_at = clock_timestamp()
WHERE state <> ALL (%s) AND sent_at < clock_timestamp() - make_interval(secs => %s)
RETURNING placed, state, reservation
"""
# failure handling: end
#: Seconds between two looks for what is overdue, and before a lost subscription is made again.
LOOK_SECONDS, AGAIN_SECONDS = 1.0, 0.2


def worker_of(order_id: str) -> int:
    """Return which worker runs an order's errands: each hears a channel of its own, or both would run each errand."""
    return zlib.crc32(order_id.encode()) % WORKERS + 1


def commands(worker: int) -> str:
    """Return the channel on which a worker hears its commands."""
    return f"checkpoints:commands:{worker}"


def messages(client: redis.Redis, channel: str, subscribed: Callable[[], object]) -> Iterator[dict[str, Any]]:
    """Give what is published on a channel, from the moment that `subscribed` is called.

    Raises:
        redis.RedisError: the connection is lost, and with it whatever is published until there is another one.
    """
    subscription: Any = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    with subscription:
        subscription.subscribe(channel)
        subscribed()
        for message in subscription.listen():
            yield json.loads(message["data"])


class Api:
    """Accepts orders, and moves their rows from callback to callback."""

    def __init__(self, *, patience_seconds: float) -> None:
        self._database = Database()
        self._redis = open_redis()
        self._patience_seconds = patience_seconds
        self.listens = threading.Event()

    def accept(self, order: Order) -> None:
        """Store an order and send its first command; a repeated order is stored already."""
        self._database.rows(_PLACE, order.id, encode_order(order), flow.FIRST)
        self._command(order, flow.FIRST, "")

    def listen(self) -> None:
        """Take callbacks until the process ends."""
        while True:
            try:  # failure handling
                for callback in messages(self._redis, CALLBACKS, self.listens.set):
                    self._move(callback)
            # failure handling: begin
            except (redis.RedisError, psycopg.Error) as error:
                print(f"callbacks: {error}", flush=True)
                time.sleep(AGAIN_SECONDS)
            # failure handling: end

    def _move(self, callback: dict[str, Any]) -> None:
        errand, went, told = callback["errand"], callback["went"], callback["told"]
        reservation = told if (errand, went) == (flow.FIRST, "done") else None
        reason = told if went != "done" else None
        state = flow.after(errand, went)
        for placed, moved_to, kept in self._database.rows(_MOVE, state, reservation, reason, callback["order"], errand):
            if moved_to not in flow.ENDED:
                self._command(decode_order(placed), moved_to, kept)

    def _command(self, order: Order, errand: str, reservation: str) -> None:
        command = json.dumps({"order": encode_order(order), "errand": errand, "reservation": reservation})
        # failure handling: begin
        try:
            self._redis.publish(commands(worker_of(order.id)), command)
        except redis.RedisError as error:
            print(f"{order.id}: {errand} could not be sent, and will be: {error}", flush=True)
        # failure handling: end

    # failure handling: begin
    def send_again(self) -> None:
        """Send again what nobody called back about: everything that is open at first, then what is overdue."""
        overdue_seconds = 0.0
        while True:
            try:
                for placed, state, reservation in self._database.rows(_OVERDUE, list(flow.ENDED), overdue_seconds):
                    self._command(decode_order(placed), state, reservation)
                overdue_seconds = self._patience_seconds
            except psycopg.Error as error:
                print(f"what is overdue: {error}", flush=True)
            time.sleep(LOOK_SECONDS)

    # failure handling: end


class Worker:
    """Runs the errands that it is told to, and calls back."""

    def __init__(self, number: int) -> None:
        self._channel = commands(number)
        self._redis = open_redis()
        self._errands = Errands(Services())
        self._threads = ThreadPoolExecutor(THREADS)
        self._in_hand: set[tuple[str, str]] = set()  # failure handling

    def listen(self) -> None:
        """Take commands until the process ends."""
        while True:
            try:  # failure handling
                for command in messages(self._redis, self._channel, lambda: print("ready", flush=True)):
                    self._take(decode_order(command["order"]), command["errand"], command["reservation"])
            # failure handling: begin
            except redis.RedisError as error:
                print(f"commands: {error}", flush=True)
                time.sleep(AGAIN_SECONDS)
            # failure handling: end

    def _take(self, order: Order, errand: str, reservation: str) -> None:
        # failure handling: begin
        if (order.id, errand) in self._in_hand:
            return  # it was sent again, and is still being run
        self._in_hand.add((order.id, errand))
        # failure handling: end
        self._threads.submit(self._run, order, errand, reservation)

    def _run(self, order: Order, errand: str, reservation: str) -> None:
        # failure handling: begin
        try:
            self._run_and_call_back(order, errand, reservation)
        except redis.RedisError as error:
            print(f"{order.id}: {errand} is done and could not be told: {error}", flush=True)  # it will be sent again
        finally:
            self._in_hand.discard((order.id, errand))
        # failure handling: end

    def _run_and_call_back(self, order: Order, errand: str, reservation: str) -> None:
        result = flow.run(self._errands, errand, order, reservation)
        callback = {"order": order.id, "errand": errand, "went": result.went, "told": result.told}
        self._redis.publish(CALLBACKS, json.dumps(callback))


@click.group()
def main() -> None:
    """The processes of this approach."""


@main.command("api")
@click.option("--port", type=int, required=True)
@click.option("--patience", "patience_seconds", type=float, required=True)
def api_command(port: int, patience_seconds: float) -> None:
    """Accept orders and move them on."""
    api = Api(patience_seconds=patience_seconds)
    threading.Thread(target=api.listen, daemon=True).start()
    api.listens.wait()
    threading.Thread(target=api.send_again, daemon=True).start()  # failure handling
    serve(port, api.accept)


@main.command("worker")
@click.option("--number", type=click.IntRange(1, WORKERS), required=True)
def worker_command(number: int) -> None:
    """Run errands."""
    Worker(number).listen()


if __name__ == "__main__":
    main()
