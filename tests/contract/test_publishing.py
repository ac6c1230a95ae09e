"""P11: who sends a turn's messages, the turn itself or the publisher's thread, and what a broker that fails leaves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
import redis
from celery import Celery

import saga.engine.publisher
from saga.engine.messages import Broker
from saga.engine.publisher import DIRECT_MAX, Publisher
from saga.engine.records import TaskMessage

from .world import wait_until


@pytest.fixture
def client(broker_url: str) -> Iterator[redis.Redis]:
    """A client of an empty broker."""
    with redis.Redis.from_url(broker_url) as opened:
        yield opened


def messages(count: int = 1, queue: str = "celery") -> list[TaskMessage]:
    run = uuid4()
    return [TaskMessage(n, uuid4(), 1, run, "trip/1", "application.charge", queue, 7.0) for n in range(count)]


def waiting(client: redis.Redis) -> int:
    length: Any = client.llen("celery")
    return int(length)


def publisher_on(url: str) -> Publisher:
    app = Celery("publishing", broker=url, set_as_current=False)
    return Publisher(app)


def end(publisher: Publisher) -> None:
    """Let the thread send what is left."""
    publisher.start()
    assert publisher.stop(10)


@pytest.mark.parametrize(
    ("url", "pipelines"),
    [
        ("redis://127.0.0.1:1/0", True),
        ("rediss://127.0.0.1:1/0?ssl_cert_reqs=none", True),
        ("sentinel://127.0.0.1:1/0", True),
        ("amqp://127.0.0.1:1//", False),
        ("memory://", False),
        ("filesystem://", False),
    ],
)
def test_only_redis_has_pipelines_with_a_bound_on_their_answer(url: str, pipelines: bool) -> None:
    assert Broker(Celery("brokers", broker=url, set_as_current=False)).pipelines is pipelines


def test_a_small_turn_publishes_by_itself_on_redis(broker_url: str, client: redis.Redis) -> None:
    publisher = publisher_on(broker_url)

    publisher.publish(messages(DIRECT_MAX), 8)

    assert (waiting(client), publisher.published) == (DIRECT_MAX, 8)
    end(publisher)
    assert waiting(client) == DIRECT_MAX


def test_on_another_broker_the_thread_publishes_however_few_they_are() -> None:
    # Nothing bounds the answer of such a broker, and a turn must not wait for it.
    app = Celery("publishing", broker="memory://", set_as_current=False)
    publisher, broker = Publisher(app), Broker(app)
    queue = uuid4().hex  # such queues are the process's

    publisher.publish(messages(queue=queue), 8)

    assert (broker.counts([queue]), publisher.published, publisher.drained) == ({queue: 0}, 0, False)
    end(publisher)
    assert (broker.counts([queue]), publisher.published) == ({queue: 1}, 8)
    broker.close()


def test_a_large_turn_is_left_to_the_thread(broker_url: str, client: redis.Redis) -> None:
    publisher = publisher_on(broker_url)

    publisher.publish(messages(DIRECT_MAX + 1), 9)

    assert (waiting(client), publisher.published) == (0, 0)
    end(publisher)
    assert (waiting(client), publisher.published) == (DIRECT_MAX + 1, 9)


def test_a_small_turn_waits_behind_what_the_thread_has_not_sent(broker_url: str, client: redis.Redis) -> None:
    # The mark would pass over them, and an heir would not publish them.
    publisher = publisher_on(broker_url)
    publisher.publish(messages(DIRECT_MAX + 1), 9)

    publisher.publish(messages(), 10)

    assert (waiting(client), publisher.published) == (0, 0)
    end(publisher)
    assert (waiting(client), publisher.published) == (DIRECT_MAX + 2, 10)


def test_a_turn_that_finds_no_broker_leaves_it_to_the_thread_for_a_while(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saga.engine.publisher, "DIRECT_PAUSE_SECONDS", 3_600.0)
    publisher = publisher_on(urlsplit(broker_url)._replace(netloc="127.0.0.1:1").geturl())
    parcels = [messages() for _ in range(3)]
    publisher.publish(parcels[0], 1)
    assert not publisher.drained
    # From here on the broker is there again.
    sent: list[tuple[str, UUID]] = []
    monkeypatch.setattr(publisher._broker, "publish", lambda batch: sent.extend(("thread", m.token) for m in batch))
    monkeypatch.setattr(publisher._direct, "publish", lambda batch: sent.extend(("turn", m.token) for m in batch))
    publisher.start()

    wait_until(lambda: publisher.drained, "the thread has sent what the turn could not")
    publisher.publish(parcels[1], 2)
    wait_until(lambda: publisher.drained, "the thread has the broker to itself")
    publisher._direct_again_at = time.monotonic()
    publisher.publish(parcels[2], 3)

    tokens = [message.token for parcel in parcels for message in parcel]
    assert sent == list(zip(("thread", "thread", "turn"), tokens, strict=True))
    assert publisher.published == 3
    assert publisher.stop(10)
