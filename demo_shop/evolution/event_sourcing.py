"""Approach 3: what happened to an order is a row of events in Postgres; workers take them from a Redis stream.

The API appends the first event; a relay puts each new event on the stream (an outbox: the table is the truth); workers
in a consumer group run the errand that follows from an order's events, append what came of it, and acknowledge. What a
dead consumer left is claimed by the living; what a lost stream held is put there again. It must not know who judges it.
What is marked: those two, the making of the group, the optimistic append, and the handling of lost connections.
"""

from __future__ import annotations

import threading
import time
import traceback
from dataclasses import dataclass
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
#: Consumers of each worker, a thread each.
THREADS = 8
STREAM, GROUP = "event_sourcing:events", "workers"
PLACE = "place"

#: `next` is the errand that follows from the event, or how the order ended. An order's versions are gapless.
TABLES = """
CREATE SCHEMA event_sourcing;
CREATE TABLE event_sourcing.event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id text NOT NULL, version integer NOT NULL,
    errand text NOT NULL, went text NOT NULL, told text NOT NULL, next text NOT NULL, published_at timestamptz,
    UNIQUE (order_id, version)
);
CREATE INDEX event_outbox ON event_sourcing.event (id) WHERE published_at IS NULL;
"""

_APPEND = """
INSERT INTO event_sourcing.event (order_id, version, errand, went, told, next) VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (order_id, version) DO NOTHING
"""
_HISTORY = "SELECT version, errand, told, next FROM event_sourcing.event WHERE order_id = %s ORDER BY version"
#: How far each order has come.
LAST = """
SELECT DISTINCT ON (order_id) order_id, next, told FROM event_sourcing.event ORDER BY order_id, version DESC
"""
_OUTBOX = "SELECT id, order_id, version FROM event_sourcing.event WHERE published_at IS NULL ORDER BY id LIMIT 100"
_PUBLISHED = "UPDATE event_sourcing.event SET published_at = clock_timestamp() WHERE id = ANY (%s)"
# failure handling: begin
# The last event of an order that has stood still for so long: the stream has lost it, or the worker has.
_STILL = """
UPDATE event_sourcing.event SET published_at = NULL WHERE id IN (
    SELECT id FROM (
        SELECT DISTINCT ON (order_id) id, next, published_at FROM event_sourcing.event ORDER BY order_id, version DESC
    ) last
    WHERE next <> ALL (%s) AND published_at < clock_timestamp() - make_interval(secs => %s)
)
"""
# failure handling: end
#: Seconds between two looks of the relay, between two for what stands still, and after an error.
LOOK_SECONDS, STILL_SECONDS, AGAIN_SECONDS = 0.03, 1.0, 0.2
#: Milliseconds that a consumer waits for the next event.
BLOCK_MILLISECONDS = 500
#: Events that the stream keeps, about: those that were taken long ago are cut off.
STREAM_MAX = 100_000


@dataclass(frozen=True, slots=True)
class History:
    """An order as its events tell it: `next` is the errand to run, or how it ended."""

    order: Order
    version: int
    reservation: str
    next: str


def fold(rows: list[tuple[Any, ...]]) -> History:
    """Return what an order's events, oldest first, amount to."""
    told = {errand: told for _, errand, told, _ in rows}
    return History(decode_order(told[PLACE]), rows[-1][0], told.get(flow.FIRST, ""), rows[-1][3])


class Api:
    """Accepts orders: the first event of each."""

    def __init__(self) -> None:
        self._database = Database()

    def accept(self, order: Order) -> None:
        """Append an order's first event, unless it is there."""
        self._database.rows(_APPEND, order.id, 1, PLACE, "done", encode_order(order), flow.FIRST)


class Relay:
    """Puts events on the stream, each at least once."""

    def __init__(self, *, patience_seconds: float) -> None:
        self._database = Database()
        self._redis = open_redis()
        self._patience_seconds = patience_seconds

    def run(self) -> None:
        """Go on until the process ends."""
        print("ready", flush=True)
        looks_again_at = 0.0
        while True:
            # failure handling: begin
            if time.monotonic() > looks_again_at:
                self._database.rows(_STILL, list(flow.ENDED), 2 * self._patience_seconds)
                looks_again_at = time.monotonic() + STILL_SECONDS
            try:
                self._publish()
            except redis.RedisError as error:
                print(f"the outbox waits: {error}", flush=True)
                time.sleep(AGAIN_SECONDS)
            # failure handling: end
            time.sleep(LOOK_SECONDS)

    def _publish(self) -> None:
        events = self._database.rows(_OUTBOX)
        if events:
            with self._redis.pipeline(transaction=False) as pipeline:
                for _, order_id, version in events:
                    pipeline.xadd(STREAM, {"order": order_id, "version": version}, maxlen=STREAM_MAX)
                pipeline.execute()
            self._database.rows(_PUBLISHED, [id for id, _, _ in events])


class Worker:
    """Some consumers of the group, in threads."""

    def __init__(self, name: str, *, patience_seconds: float) -> None:
        self._name = name
        self._patience_milliseconds = int(patience_seconds * 1000)
        self._database = Database()
        self._redis = open_redis()
        self._errands = Errands(Services())

    def run(self) -> None:
        """Go on until the process ends."""
        self._make_group()
        threads = [threading.Thread(target=self._consume, args=(f"{self._name}:{n}",)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        print("ready", flush=True)
        for thread in threads:
            thread.join()

    def _make_group(self) -> None:
        # failure handling: begin
        try:
            self._redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        # failure handling: end

    def _consume(self, consumer: str) -> None:
        while True:
            # failure handling: begin
            try:
                self._take_next(consumer)
            except redis.ResponseError:
                self._make_group_again()  # the stream was lost, and the group with it
            except (redis.RedisError, psycopg.Error):
                traceback.print_exc()  # what was not acknowledged is claimed again
                time.sleep(AGAIN_SECONDS)
            # failure handling: end

    # failure handling: begin
    def _make_group_again(self) -> None:
        try:
            self._make_group()
        except redis.RedisError:
            time.sleep(AGAIN_SECONDS)

    # failure handling: end

    def _take_next(self, consumer: str) -> None:
        # failure handling: begin
        _, entries, *_ = self._redis.xautoclaim(STREAM, GROUP, consumer, self._patience_milliseconds, count=1)
        if entries:
            return self._take(*entries[0])
        # failure handling: end
        read: Any = self._redis.xreadgroup(GROUP, consumer, {STREAM: ">"}, count=1, block=BLOCK_MILLISECONDS)
        for _, entries in read:
            self._take(*entries[0])
        return None

    def _take(self, entry: str, event: dict[str, str]) -> None:
        history = fold(self._database.rows(_HISTORY, event["order"]))
        is_news = history.version == int(event["version"])  # failure handling
        if is_news and history.next not in flow.ENDED:
            self._go_on(history)
        self._redis.xack(STREAM, GROUP, entry)

    def _go_on(self, history: History) -> None:
        errand, order = history.next, history.order
        result = flow.run(self._errands, errand, order, history.reservation)
        told = (result.went, result.told, flow.after(errand, result.went))
        # When another consumer was as far, one of the two is appended, and the other is as if it had not been.
        self._database.rows(_APPEND, order.id, history.version + 1, errand, *told)


@click.group()
def main() -> None:
    """The processes of this approach."""


@main.command("api")
@click.option("--port", type=int, required=True)
def api_command(port: int) -> None:
    """Accept orders."""
    serve(port, Api().accept)


@main.command("relay")
@click.option("--patience", "patience_seconds", type=float, required=True)
def relay_command(patience_seconds: float) -> None:
    """Put events on the stream."""
    Relay(patience_seconds=patience_seconds).run()


@main.command("worker")
@click.option("--name", required=True)
@click.option("--patience", "patience_seconds", type=float, required=True)
def worker_command(name: str, patience_seconds: float) -> None:
    """Run errands."""
    Worker(name, patience_seconds=patience_seconds).run()


if __name__ == "__main__":
    main()
