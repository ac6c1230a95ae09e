"""Golden histories: logs that are kept in files, and the code that does or does not follow them any more."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from saga import Abort, Context, RetryLater, Status, saga
from saga.core.definition import SagaDefinition
from saga.core.errors import DecodeFailed, ReplayMismatch
from saga.core.events import ARRIVALS
from saga.engine.client import Saga
from saga.engine.history import from_json, history_of, to_json
from saga.testing import play, record, replay
from tests.unit.families import JOURNEY, LEG, TOLERANT, Family, begin
from tests.unit.steps import charge, look, mail, ship, stock
from tests.unit.turned import Turned

pytestmark = pytest.mark.usefixtures("own_declarations")


def as_it_was(ctx: Context, n: int) -> int:
    reserved = ctx.run(stock, n)
    paid = ctx.run(charge, reserved)
    ctx.gather(ctx.start(ship, n), ctx.start(mail, n))
    return paid


def with_another_step(ctx: Context, n: int) -> int:
    reserved = ctx.run(stock, n)
    ctx.run(look, n)
    return ctx.run(charge, reserved)


def with_one_more_at_the_end(ctx: Context, n: int) -> int:
    paid = as_it_was(ctx, n)
    ctx.run(look, n)
    return paid


def with_a_step_less(ctx: Context, n: int) -> int:
    return ctx.run(charge, ctx.run(stock, n))


def in_another_order(ctx: Context, n: int) -> int:
    reserved = ctx.run(stock, n)
    ctx.gather(ctx.start(mail, n), ctx.start(ship, n))
    return ctx.run(charge, reserved)


def with_a_bug(ctx: Context, n: int) -> int:
    ctx.run(stock, n)
    raise KeyError("colour")


def named(function: Callable[[Context, int], int], *, version: int = 1) -> Saga[int, int]:
    return saga("golden", version=version)(function)


@pytest.fixture
def history() -> str:
    return record(play(named(as_it_was), 3))


def test_the_code_that_wrote_a_history_follows_it(history: str) -> None:
    replay(named(as_it_was), history)


def test_no_step_runs_in_a_replay(history: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(n: int) -> int:
        raise AssertionError("it ran")

    for one in (stock, charge, ship, mail):
        monkeypatch.setattr(one, "function", never)

    replay(named(as_it_was), history)


@pytest.mark.parametrize(
    ("changed", "recorded", "asked"),
    [
        (with_another_step, "ActionScheduled steps.charge#1 at 4", "ActionScheduled steps.look#1"),
        (with_one_more_at_the_end, "RunCompleted  at 10", "ActionScheduled steps.look#1"),
        (with_a_step_less, "ActionScheduled steps.ship#1 at 6", "RunCompleted"),
        (in_another_order, "ActionScheduled steps.charge#1 at 4", "ActionScheduled steps.mail#1"),
    ],
)
def test_changed_code_is_refused_with_the_place(
    history: str, changed: Callable[[Context, int], int], recorded: str, asked: str
) -> None:
    with pytest.raises(ReplayMismatch) as raised:
        replay(named(changed), history)

    told = str(raised.value)
    assert f"the log has {recorded}; this code asks for {asked}" in told
    assert f"{changed.__code__.co_filename}:{changed.__code__.co_firstlineno}" in told
    assert "golden/play" in told


def test_a_bug_that_the_code_has_by_now_is_refused(history: str) -> None:
    with pytest.raises(ReplayMismatch, match=r"KeyError: 'colour' \(saga_bug\)"):
        replay(named(with_a_bug), history)


def test_a_history_of_a_run_that_has_not_ended_is_followed_as_far_as_it_goes(history: str) -> None:
    document = json.loads(history)
    events = document["events"]
    ends = [seq for seq, event in enumerate(events) if seq and event["kind"] in ARRIVALS]
    assert len(ends) == 4
    for end in ends:  # a log ends where a turn ended, and the next turn begins with an arrival
        replay(named(as_it_was), json.dumps(document | {"events": events[:end]}))


def test_a_run_that_was_undone_is_checked_up_to_where_it_turned_round() -> None:
    undone = play(named(as_it_was), 3, replace={ship: Abort("no"), mail: TimeoutError})
    assert undone.status is Status.COMPENSATED
    history = record(undone)

    replay(named(as_it_was), history)
    with pytest.raises(ReplayMismatch, match=r"asks for ActionScheduled steps\.look#1"):
        replay(named(with_another_step), history)


@pytest.mark.parametrize("number", range(5))
def test_a_run_that_was_cancelled_anywhere_is_followed(number: int) -> None:
    replay(named(as_it_was), record(play(named(as_it_was), 3, cancel_after=number)))


def test_retries_probes_and_late_news_are_followed() -> None:
    replies: list[Exception | int] = [TimeoutError(), RetryLater(after=3), 7]

    def slowly(n: int) -> int:
        reply = replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    played = play(named(as_it_was), 3, replace={stock: slowly}, crash_at="worker.ran steps.charge#1")

    assert played.status is Status.COMPLETED
    replay(named(as_it_was), record(played))


# -- the undo of a child -------------------------------------------------------------------------------------------


def exported(turned: Turned, key: str) -> str:
    """Return the history of a run of LEG, as `saga export` prints it."""
    run = turned.run_of(LEG, key)
    return to_json(history_of(LEG.name, key, run, lambda one: [event for event, _ in turned.logs.get(one, [])]))


@pytest.fixture
def undone(family: Family) -> Turned:
    """A child that completed, and was undone at the second attempt: an operator ended the first."""
    turned = begin(family(LEG, JOURNEY), JOURNEY)
    turned.succeed(turned.run_of(LEG, "journey/7#1"), "stock", "charge")
    turned.fail(turned.run_of(JOURNEY, "7"), "ship")
    first = turned.run_of(LEG, "journey/7#1~undo")
    turned.succeed(first, "charge.compensate")
    turned.fail(first, "stock.compensate")
    turned.terminate(LEG, "journey/7#1~undo")
    turned.retry(JOURNEY, "7")
    turned.succeed(turned.run_of(LEG, "journey/7#1~undo~2"), "stock.compensate")
    return turned


@pytest.mark.parametrize("key", ["journey/7#1", "journey/7#1~undo", "journey/7#1~undo~2"])
def test_a_child_and_each_run_that_undoes_it_are_followed(undone: Turned, key: str) -> None:
    replay(LEG, exported(undone, key))


def test_the_undo_of_a_child_that_was_terminated_is_followed(family: Family) -> None:
    turned = begin(family(LEG, TOLERANT), TOLERANT)
    turned.succeed(turned.run_of(LEG, "tolerant/7#1"), "stock")
    turned.terminate(LEG, "tolerant/7#1")
    turned.wait(100)
    turned.rest()
    undo = turned.run_of(LEG, "tolerant/7#1~undo")
    turned.succeed(undo, "charge.compensate")
    replay(LEG, exported(turned, "tolerant/7#1~undo"))

    turned.succeed(undo, "stock.compensate")

    replay(LEG, exported(turned, "tolerant/7#1~undo"))


def test_code_that_does_not_follow_the_child_is_refused_with_the_childs_place(undone: Turned) -> None:
    changed = SagaDefinition(with_another_step, name="leg")

    with pytest.raises(ReplayMismatch) as raised:
        replay(changed, exported(undone, "journey/7#1~undo"))

    told = str(raised.value)
    assert "the log has ActionScheduled steps.charge#1 at 4; this code asks for ActionScheduled steps.look#1" in told
    assert "does not follow the history of leg/journey/7#1:" in told


def test_a_history_of_an_undo_holds_the_log_of_the_child(undone: Turned) -> None:
    text = exported(undone, "journey/7#1~undo~2")

    history = from_json(text)
    assert history.undoes is not None
    assert history.undoes == from_json(exported(undone, "journey/7#1"))
    assert to_json(history) == text


def test_a_history_of_an_undo_without_the_log_of_the_child_is_refused(undone: Turned) -> None:
    document = json.loads(exported(undone, "journey/7#1~undo"))
    del document["undoes"]

    with pytest.raises(DecodeFailed, match=r"lacks the log of the run that it undoes, leg/journey/7#1: export it"):
        replay(LEG, json.dumps(document))


def test_another_version_is_refused(history: str) -> None:
    with pytest.raises(ReplayMismatch, match=r"saga golden version 1; this is golden version 2: replay it with"):
        replay(named(as_it_was, version=2), history)


def test_a_result_that_the_code_cannot_read_any_more_is_refused(history: str) -> None:
    document = json.loads(history)
    for event in document["events"]:
        if event["kind"] == "StepSucceeded":
            event["payload"] = event["payload"].replace('"value":4', '"value":"four"')

    with pytest.raises(ReplayMismatch, match="not_decoded"):
        replay(named(as_it_was), json.dumps(document))


def test_a_history_is_read_as_it_was_written_and_has_an_event_a_line() -> None:
    played = play(named(as_it_was), 3, replace={mail: Abort("„no“ \u0000")})

    history = record(played)

    assert from_json(history).events == played.events
    assert to_json(from_json(history)) == history
    assert history.count("\n") == len(played.events) + 2


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"layout": 1, "saga": "s", "key": "k", "run": "x", "events": []}', '{"layout": 7}']
)
def test_what_is_no_history_is_refused(text: str) -> None:
    with pytest.raises(DecodeFailed, match="history"):
        replay(named(as_it_was), text)
