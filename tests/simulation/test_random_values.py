"""Values of every shape through what writes and reads them, and delays of every policy."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from saga import Retry
from saga.core.events import start_payload
from saga.core.outcome import json_after, progress_of, unwrap, wrap
from saga.engine.codec import JsonCodec
from saga.engine.heart import PROGRESS_BYTES_MAX

RUN = UUID("018f0000-0000-7000-8000-000000000001")
BOUNDED = settings(max_examples=100, derandomize=True, deadline=None, database=None)
JSON_TEXT = st.sampled_from(
    ['"a"', "null", '{"value":3}', '"\\"value\\":"', '{"input":1,"payload":"}"}', "[1, 2]", "NaN"]
)


@BOUNDED
@given(
    used=st.integers(min_value=0, max_value=10_000),
    first=st.floats(min_value=0, max_value=1e7),
    factor=st.floats(min_value=1, max_value=1_000),
    most=st.floats(min_value=0, max_value=1e7),
    jitter=st.floats(min_value=0, max_value=1),
)
def test_a_delay_is_a_number_of_seconds_between_its_bounds_however_often_it_is_asked(
    used: int, first: float, factor: float, most: float, jitter: float
) -> None:
    retry = Retry(first_seconds=first, factor=factor, max_seconds=most, jitter=jitter)

    delay = retry.delay_seconds(used, RUN)

    assert 0 <= delay <= min(most, max(first, most))
    assert timedelta(seconds=delay) >= timedelta(0)
    assert delay == retry.delay_seconds(used, RUN)


@BOUNDED
@given(value=JSON_TEXT, worker=st.text(), seconds=st.floats(min_value=0, max_value=1e6))
def test_an_outcomes_value_comes_out_byte_for_byte_whoever_ran_it(value: str, worker: str, seconds: float) -> None:
    assert unwrap(wrap(value, worker=worker, ran_seconds=seconds)) == value


@BOUNDED
@given(value=JSON_TEXT)
def test_the_last_field_comes_out_byte_for_byte(value: str) -> None:
    assert json_after(start_payload(3, None, value), "input") == value
    assert json_after(start_payload(3, 2.5, value), "input") == value


@BOUNDED
@given(progress=st.recursive(st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner)))
def test_progress_and_value_stay_apart_whatever_they_hold(progress: Any) -> None:
    text = JsonCodec().encode_plain(progress, "the progress", PROGRESS_BYTES_MAX)
    value = json.dumps({"value": progress, "progress": progress})

    payload = wrap(value, worker='"value":', ran_seconds=1, progress=text)

    assert (progress_of(payload), unwrap(payload)) == (text, value)
    assert progress_of(wrap(value, worker='"progress":', ran_seconds=1)) is None
    assert progress_of(json.dumps({"progress": text})) == text
