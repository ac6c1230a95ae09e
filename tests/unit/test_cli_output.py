"""What the commands print: no passwords, durations as people read them, values as JSON."""

from __future__ import annotations

import pytest

from saga.cli.output import age, without_passwords
from saga.engine.codec import Value
from saga.engine.shapes import shape


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://app:s3cret@db/shop", "postgresql://app:***@db/shop"),
        ("redis://:s3cret@127.0.0.1:6379/0 is down", "redis://:***@127.0.0.1:6379/0 is down"),
        ("postgresql+psycopg://a:b:c@h/d and redis://:x@y/0", "postgresql+psycopg://a:***@h/d and redis://:***@y/0"),
        ("host=db password=s3cret user=app", "host=db password=*** user=app"),
        ("password='s3 cret' host=db", "password=*** host=db"),
        ("http://127.0.0.1:5555/ has no password", "http://127.0.0.1:5555/ has no password"),
        ("postgresql://app@db/shop", "postgresql://app@db/shop"),
    ],
)
def test_no_password_gets_out(text: str, shown: str) -> None:
    assert without_passwords(text) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0123, "0.012 s"), (-1, "0.000 s"), (3.44, "3.4 s"), (600, "10 min"), (9_000, "2.5 h"), (400_000, "5 d")],
)
def test_durations_are_short(seconds: float, shown: str) -> None:
    assert age(seconds) == shown


@pytest.mark.parametrize(
    ("annotation", "shown"),
    [(int, "integer"), (list[str], "[string, …]"), (str | None, "string or null"), (dict[str, int], "object")],
)
def test_a_declared_type_is_described(annotation: object, shown: str) -> None:
    assert shape(Value(annotation, "a value")) == shown
