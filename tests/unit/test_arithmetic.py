"""Small exact things: delays, tokens, the hash chain, addresses, payloads, pickled errors, and the lifecycle."""

from __future__ import annotations

import pickle
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest

from saga import (
    Abort,
    ChildFailed,
    LockTaken,
    Retry,
    RetryLater,
    SagaError,
    SignalTimeout,
    StepFailed,
    ValueRefused,
)
from saga.core import errors, events
from saga.core.address import KEY_CHARACTERS_MAX, check_key, new_run_id, shard_of
from saga.core.definition import COMPENSATION_DEADLINE_SECONDS, Policy
from saga.core.errors import RunFailed, RunStalled, describe
from saga.core.events import (
    ARRIVALS,
    ASKED,
    TERMINAL,
    Direction,
    Event,
    EventKind,
    chain_digest,
    split_task_name,
    token_of,
)
from saga.core.fold import FOLDS
from saga.core.lifecycle import ENDED, TRANSITIONS, Status
from saga.core.outcome import companion_input, found, json_after, unwrap
from saga.core.pinned import (
    ChildLink,
    Close,
    LockLink,
    Pinned,
    pinned_text,
    policy_from_json,
    policy_to_json,
    read_pinned,
)
from saga.core.retry import COMPENSATION_RETRY
from saga.engine.store import failures as store_failures
from tests.unit.steps import charge, stock

RUN = UUID("018f0000-0000-7000-8000-000000000001")


# -- delays --------------------------------------------------------------------------------------------------------


def test_delays_double_up_to_their_maximum() -> None:
    retry = Retry(first_seconds=1, factor=2, max_seconds=60, jitter=0)

    assert [retry.delay_seconds(used, RUN) for used in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_jitter_shortens_by_its_fraction_at_most_and_differs_by_token() -> None:
    retry = Retry(first_seconds=100, jitter=0.2, max_seconds=100)

    delays = {retry.delay_seconds(1, uuid4()) for _ in range(50)}

    assert all(80 <= delay <= 100 for delay in delays)
    assert len(delays) > 40


def test_attempts_are_allowed_up_to_their_number_and_without_one_for_ever() -> None:
    assert [Retry(attempts=2).allows(used) for used in (0, 1, 2, 3)] == [True, True, False, False]
    assert Retry(attempts=None).allows(10**9)


def test_the_defaults_are_those_of_the_design() -> None:
    assert Policy() == Policy(retry=Retry(5, 1.0, 2.0, 60.0), timeout_seconds=60, deadline_seconds=None)
    assert COMPENSATION_RETRY.attempts is None
    assert COMPENSATION_DEADLINE_SECONDS == 72 * 3_600


def test_a_policy_survives_the_log() -> None:
    for policy in (stock.policy, stock.compensation_policy, Policy(Retry(None, 0.5, 1, 2, 0), None, 3.25)):
        assert policy_from_json(policy_to_json(policy)) == policy
    links = (None, ChildLink("trip", "x/1", 2, 3.5, Close.CANCEL), LockLink("order:1", False))
    for link in links:
        pinned = Pinned("a.b", charge.policy, None, True, link)
        assert read_pinned(pinned_text(pinned)) == read_pinned(pinned_text(pinned)) == pinned


# -- tokens and the chain ------------------------------------------------------------------------------------------


def test_a_token_is_derived_and_differs_by_run_occurrence_and_direction() -> None:
    tokens = {
        token_of(run, occurrence, direction)
        for run in (RUN, UUID(int=1))
        for occurrence in ("a.b#1", "a.b#11", "a.c#1")
        for direction in Direction
    }

    assert len(tokens) == 18
    assert token_of(RUN, "a.b#1", Direction.ACTION) == token_of(RUN, "a.b#1", Direction.ACTION)


def test_a_token_stays_what_it_was_in_every_release() -> None:
    assert str(token_of(RUN, "a.b#1", Direction.ACTION)) == "62d16b36-5451-83dc-ed49-6562740efc1c"


def test_every_field_of_an_event_is_in_its_digest() -> None:
    event = Event(3, EventKind.STEP_SUCCEEDED, datetime(2026, 1, 1, tzinfo=UTC), RUN, 1, RUN, "k", "{}")
    changes = [
        {"seq": 4},
        {"kind": EventKind.STEP_FAILED},
        {"at": event.at + timedelta(microseconds=1)},
        {"token": UUID(int=1)},
        {"attempt": 2},
        {"claimant": UUID(int=1)},
        {"key": "other"},
        {"payload": "[]"},
    ]

    digests = {chain_digest(b"", event), chain_digest(b"x", event)}
    digests |= {chain_digest(b"", replace(event, **change)) for change in changes}  # type: ignore[arg-type]

    assert len(digests) == 10


def test_the_digest_is_of_the_instant_whatever_its_timezone() -> None:
    event = Event(1, EventKind.RUN_STARTED, datetime(2026, 1, 1, 12, tzinfo=UTC))
    elsewhere = replace(event, at=event.at.astimezone(timezone(timedelta(hours=9))))

    assert chain_digest(b"", event) == chain_digest(b"", elsewhere)


# -- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "x" * (KEY_CHARACTERS_MAX + 1), "a\nb", "a\x00b", "\ud800", None, 7])
def test_a_key_that_cannot_be_a_name_is_refused(key: object) -> None:
    with pytest.raises(ValueRefused, match="printable characters"):
        check_key(key)


def test_a_key_may_have_spaces_slashes_and_any_letters() -> None:
    for key in ("order-7", "a/b c", "заказ", "x" * KEY_CHARACTERS_MAX):
        assert check_key(key) == key


def test_a_shard_is_stable_and_all_are_used() -> None:
    assert shard_of("checkout", "order-7", 64) == 30
    assert {shard_of("checkout", f"order-{number}", 64) for number in range(2_000)} == set(range(64))


def test_run_ids_are_of_version_7_and_ordered_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for milliseconds in (1, 2, 1_700_000_000_000, 1_700_000_000_001):
        monkeypatch.setattr(time, "time_ns", lambda at=milliseconds: at * 1_000_000)
        ids.append(new_run_id())

    assert {run.version for run in ids} == {7}
    assert {run.variant for run in ids} == {"specified in RFC 4122"}
    assert ids == sorted(ids)


# -- payloads ------------------------------------------------------------------------------------------------------


def test_there_is_no_value_where_there_is_no_payload() -> None:
    assert unwrap(None) is None
    assert unwrap("{}") is None
    assert json_after("{}", "input") == ""
    assert found(None) is None
    assert found("null") is None
    assert found("[null]") == "null"
    assert found('[{"a":[1]}]') == '{"a":[1]}'
    assert companion_input(UUID(int=1), "{}", None).endswith('"known":false,"result":null}')


def test_a_tasks_name_tells_its_step_and_direction() -> None:
    assert split_task_name("a.b") == ("a.b", Direction.ACTION)
    assert split_task_name("a.b.compensate") == ("a.b", Direction.COMPENSATION)
    assert split_task_name("a.b.probe") == ("a.b", Direction.PROBE)


# -- errors --------------------------------------------------------------------------------------------------------


def _all_errors() -> list[BaseException]:
    telling = (StepFailed, ChildFailed, LockTaken, RunFailed, RunStalled, SignalTimeout)
    plain = [
        kind("what was wrong; what to do")
        for module in (errors, store_failures)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, SagaError) and kind not in telling
    ]
    return [
        *plain,
        StepFailed("a.b#1", "declined", "shop.Declined"),
        ChildFailed("child:trip#1", "declined", "shop.Declined"),
        LockTaken("lock:order:1#1", "it is another run's"),
        SignalTimeout("decision", 30),
        RunFailed("checkout/7", "compensated", "failed", "declined"),
        RunStalled("checkout/7", "stalled", "saga_bug"),
        Abort("no"),
        Abort(),
        RetryLater(after=3.5),
    ]


@pytest.mark.parametrize("error", _all_errors(), ids=lambda error: type(error).__name__)
def test_every_error_survives_pickling(error: BaseException) -> None:
    back = pickle.loads(pickle.dumps(error))

    assert type(back) is type(error)
    assert (str(back), vars(back)) == (str(error), vars(error))


def test_errors_tell_the_run_the_step_and_the_reason() -> None:
    assert str(StepFailed("a.b#1", "declined")) == "a.b#1 failed: declined"
    assert str(RunFailed("c/7", "compensated", "failed", "no")) == "run c/7 ended compensated (failed): no"
    assert "no reason recorded" in str(RunFailed("c/7", "terminated"))


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), 31 * 86_400])
def test_retry_later_takes_seconds_within_a_month(after: float) -> None:
    with pytest.raises(ValueError, match="expected seconds"):
        RetryLater(after=after)


def test_an_error_is_described_by_its_type_and_a_bounded_message() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise KeyError

    assert describe(ValueError("x" * 5_000))["message"] == "x" * 2_000
    assert describe(ValueError("x"))["type"] == "ValueError"
    assert describe(Abort("x"))["type"] == "saga.core.errors.Abort"
    assert "cannot be read" in describe(Silent())["message"]


# -- the lifecycle -------------------------------------------------------------------------------------------------


def test_no_arrow_leaves_an_ended_status_and_every_other_is_left() -> None:
    left = {before for before, _ in TRANSITIONS}

    assert left.isdisjoint(ENDED)
    assert left == {None, *Status} - ENDED
    assert {after for _, after in TRANSITIONS} == set(Status)


def test_every_live_status_can_reach_an_end() -> None:
    for status in set(Status) - ENDED:
        reached = {status}
        for _ in Status:
            reached |= {after for before, after in TRANSITIONS if before in reached}
        assert reached & ENDED, status


def test_every_kind_of_event_has_one_way_to_be_folded() -> None:
    assert set(FOLDS) == set(EventKind)
    assert ARRIVALS.isdisjoint(ASKED)
    assert ARRIVALS.isdisjoint(TERMINAL)
    assert events.EventKind.RUN_COMPLETED in ASKED
