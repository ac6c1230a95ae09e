"""Waiting on real parts: signals, time, updates and what a run shows, across the deaths of those who keep it."""

from __future__ import annotations

from datetime import datetime, timedelta

import psycopg
import pytest

from saga import RunEnded, Status, UnknownSignal, UpdateRefused, ValueRefused
from saga.core.events import EventKind
from tests.integration.fleet import Fleet, kinds
from tests.integration.waiting import answer, asking, count, counting, impatient, sleepy


def test_a_run_waits_for_an_answer_across_the_death_of_everybody(audited: Fleet) -> None:
    handle = audited.start(asking, "everybody")
    audited.until(lambda: audited.shown(handle) == {"waits for": "answer"}, "it waits")
    audited.kill(*audited.nodes.values())
    audited.tend()

    handle.send(answer, "yes")

    audited.ends(handle, Status.COMPLETED)
    assert handle.result() == ["yes"]


def test_f26_a_signal_before_the_wait_is_kept_and_one_sent_twice_is_taken_once(audited: Fleet) -> None:
    handle = audited.start(asking, "early", reserve="gate:early")
    audited.reached("early")
    handle.send(answer, "early", id="a")
    handle.send(answer, "again", id="a")
    audited.open("early")

    history = audited.ends(handle, Status.COMPLETED)

    assert handle.result() == ["early"]
    assert kinds(history).count(EventKind.SIGNAL_RECEIVED) == 1


def test_f26_a_signal_after_the_end_is_refused_and_one_that_races_it_is_an_incident(audited: Fleet) -> None:
    handle = audited.start(asking, "over")
    handle.send(answer, "one")
    handle.send(answer, "two")
    audited.ends(handle, Status.COMPLETED)

    with pytest.raises(RunEnded):
        handle.send(answer, "three")

    incidents = audited.count(
        "SELECT count(*) FROM saga.incident WHERE kind = 'SignalReceived' AND payload LIKE %s", "%two%"
    )
    assert incidents == 1


def test_a_signal_joins_the_callers_transaction(audited: Fleet) -> None:
    handle = audited.start(asking, "joined")
    with psycopg.connect(audited.database.url) as connection:
        handle.send(answer, "taken back", connection=connection)
        connection.rollback()
        handle.send(answer, "committed", connection=connection)

    audited.ends(handle, Status.COMPLETED)
    assert handle.result() == ["committed"]


def test_what_a_saga_does_not_declare_cannot_be_sent(audited: Fleet) -> None:
    handle = audited.start(counting, "strict")

    with pytest.raises(UnknownSignal, match="declares no signal 'answer'"):
        handle.send(answer, "no")
    with pytest.raises(ValueRefused):
        handle.send(count, "no number")  # type: ignore[misc]

    assert handle.update(count, 0) == 0


def test_an_update_is_answered_once_and_the_answer_can_be_asked_for_again(audited: Fleet) -> None:
    handle = audited.start(counting, "sum")

    assert handle.update(count, 3, id="first") == 3
    assert handle.update(count, 4) == 7
    assert handle.update(count, 3, id="first") == 3
    with pytest.raises(UpdateRefused, match="only what is positive counts"):
        handle.update(count, -1)
    assert handle.update(count, 0) == 7

    audited.ends(handle, Status.COMPLETED)


def test_a_timeout_is_never_early_and_the_next_wait_takes_the_answer(audited: Fleet) -> None:
    handle = audited.start(impatient, "late", patience="0.3")
    audited.until(lambda: audited.applied(handle, "notify") == 1, "it was reminded once")
    handle.send(answer, "at last")

    history = audited.ends(handle, Status.COMPLETED)

    assert handle.result() == "at last"
    begun = [event.at for event in history if event.kind is EventKind.TIMER_STARTED]
    fired = [event.at for event in history if event.kind is EventKind.TIMER_FIRED]
    assert all(f - b >= timedelta(seconds=0.3) for b, f in zip(begun, fired, strict=False))


def test_a_sleep_survives_its_coordinators(audited: Fleet) -> None:
    handle = audited.start(sleepy, "nap", sleep="1.5")
    audited.until(
        lambda: audited.count("SELECT count(*) FROM saga.timer WHERE name = 'timer:timer#1'") >= 1, "it sleeps"
    )
    audited.kill(audited.nodes["c1"], audited.nodes["c2"])
    audited.tend()

    audited.ends(handle, Status.COMPLETED)

    began, woke = (datetime.fromisoformat(text) for text in handle.result())
    assert woke - began >= timedelta(seconds=1.5)


def test_a_cancel_reaches_a_run_that_waits(audited: Fleet) -> None:
    handle = audited.start(asking, "called-off")
    audited.until(lambda: audited.shown(handle), "it waits")
    audited.cancel(handle)

    audited.ends(handle, Status.COMPENSATED)

    assert audited.undone(handle, "reserve") == 1
