"""Publishes what is surely committed, in order. A slow broker never holds up a turn: a thread takes over from it.

It knows messages and marks, and nothing of the runs they belong to.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from celery import Celery

from saga.core.errors import SagaError
from saga.engine.crashpoints import Point, reach
from saga.engine.messages import PIPELINE_MAX, Broker
from saga.engine.records import TaskMessage

log = logging.getLogger("saga.publisher")

#: Batches that may wait for the broker; beyond, no starts are taken.
WAITING_MAX = 64
#: Seconds between two tries to reach the broker: the first, and the longest.
RETRY_SECONDS = (0.05, 2.0)

#: A parcel of at most so many messages is published by the turn itself while the broker answers at once.
DIRECT_MAX = 8
#: Seconds that the turn may wait for the broker, and for which it leaves a broker alone that took longer.
DIRECT_SECONDS = 0.2
DIRECT_PAUSE_SECONDS = 5.0


class PublisherFailed(SagaError):
    """Raised when the publisher's thread ended by an error that it does not know: its coordinator must end, too."""


Parcel = tuple[Sequence[TaskMessage], int | None, Callable[[], None] | None]


class Publisher:
    """Publishes parcels in the order they were given.

    `published` is the id up to which this coordinator's tasks are surely in the broker.
    """

    def __init__(self, app: Celery) -> None:
        self.published = 0
        self._broker = Broker(app)
        self._direct = Broker(app, timeout_seconds=DIRECT_SECONDS)
        self._direct_again_at = 0.0
        self._parcels: queue.Queue[Parcel | None] = queue.Queue()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="saga-publisher", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    @property
    def has_room(self) -> bool:
        """Whether the broker keeps up.

        Raises:
            PublisherFailed: nothing is published any more; end, and let another coordinator take over.
        """
        if self._failure is not None:
            raise PublisherFailed(
                f"the publisher failed with {type(self._failure).__name__}, as its log says: "
                "this coordinator ends, and another publishes what is left"
            ) from self._failure
        return self._parcels.qsize() < WAITING_MAX

    @property
    def drained(self) -> bool:
        """Whether everything that was given is in the broker."""
        return self._parcels.unfinished_tasks == 0

    def give(
        self,
        messages: Sequence[TaskMessage],
        *,
        mark: int | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Publish messages; afterwards move `published` to the mark, and call `then` in the publisher's thread."""
        self._parcels.put((messages, mark, then))

    def publish(self, messages: Sequence[TaskMessage], mark: int) -> None:
        """Publish a turn's messages and move the mark: at once where they are few, else by the thread.

        For the turn's own thread only.
        """
        # Nothing of the thread's is unpublished, so the mark may pass over it.
        direct = self._direct.pipelines and self.drained and len(messages) <= DIRECT_MAX
        if direct and time.monotonic() >= self._direct_again_at:
            try:
                self._direct.publish(messages)
            except Exception as error:  # whatever a broker's driver raises: the thread sends them all again
                log.warning("the broker is slow or gone (%s): the publisher takes over", type(error).__name__)
                self._direct.close()
                self._direct_again_at = time.monotonic() + DIRECT_PAUSE_SECONDS
            else:
                reach(Point.TURN_PUBLISHED, messages[0].name)
                self.published = max(self.published, mark)
                return
        self.give(messages, mark=mark)

    def stop(self, seconds: float) -> bool:
        """Publish what is left, for at most so many seconds; False: something is left, for the next owner."""
        self._parcels.put(None)
        self._thread.join(seconds)
        if not self._thread.is_alive():
            return self._failure is None
        self._stopping.set()
        return False

    def _run(self) -> None:
        try:
            self._publish_all()
        except BaseException as error:  # without its thread a coordinator is half alive: it must end
            log.critical("the publisher failed: this coordinator ends", exc_info=True)
            self._failure = error
        self._broker.close()
        self._direct.close()

    def _publish_all(self) -> None:
        done = False
        while not done:
            parcels = [self._parcels.get()]
            size = len(parcels[0][0]) if parcels[0] else 0
            while size < PIPELINE_MAX and not self._parcels.empty():
                parcels.append(self._parcels.get())
                size += len(parcels[-1][0]) if parcels[-1] else 0
            done = None in parcels
            self._publish([parcel for parcel in parcels if parcel is not None])
            for _ in parcels:
                self._parcels.task_done()

    def _publish(self, parcels: list[Parcel]) -> None:
        messages = [message for parcel in parcels for message in parcel[0]]
        pause = RETRY_SECONDS[0]
        while messages and not self._stopping.is_set():
            try:
                self._broker.publish(messages)
                break
            except Exception as error:  # whatever a broker's driver raises, the messages are kept and sent again
                log.warning("the broker did not take %d messages (%s); again", len(messages), type(error).__name__)
                self._broker.close()
                time.sleep(pause)
                pause = min(pause * 2, RETRY_SECONDS[1])
        if self._stopping.is_set():
            return
        if messages:
            reach(Point.TURN_PUBLISHED, messages[0].name)
        for _, mark, then in parcels:
            if mark is not None:
                self.published = max(self.published, mark)
            if then is not None:
                then()
