"""Type hints that JSON cannot keep apart: unions of look-alikes, None in disguise. It knows no values and no steps."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import pathlib
import types
import uuid
from collections.abc import Iterator
from itertools import combinations
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from typing_extensions import TypeAliasType, is_typeddict

from saga.core.errors import DefinitionError

#: Types beside str whose values are JSON strings: a str that happens to look like one would be read back as one.
_STRINGS = (
    bytes,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    enum.Enum,
    pathlib.PurePath,
    uuid.UUID,
)
_ARRAYS = (list, tuple, set, frozenset)
_NEVER = (collections.abc.Callable, type)


def allows_none(annotation: Any) -> bool:
    """Say whether None is a value of this type."""
    for member in _members(annotation):
        if member is None or member is type(None):
            return True
        if get_origin(member) is Literal and None in get_args(member):
            return True
    return False


def refuse_look_alikes(annotation: Any, where: str) -> None:
    """Refuse what cannot come back from JSON as it was, in the annotation and in the fields of its classes.

    Raises:
        DefinitionError: two members of a union look alike, a hint cannot be resolved, or functions would be stored.
    """
    _refuse(annotation, where, set())


def _members(annotation: Any) -> Iterator[Any]:
    """Yield the members of a union, or the annotation itself; through Annotated and named aliases."""
    if isinstance(annotation, TypeAliasType):
        yield from _members(annotation.__value__)
    elif get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _refuse(annotation: Any, where: str, seen: set[type]) -> None:
    members = list(_members(annotation))
    for one, other in combinations(members, 2):
        if _alike(one, other, where):
            raise DefinitionError(
                f"{where}: {_name(one)} and {_name(other)} look alike as JSON, so one could be read back as the other; "
                "use one of them, or give each a class with a field such as `kind: Literal[…]`"
            )
    for member in members:
        if member in _NEVER or get_origin(member) in _NEVER:
            raise DefinitionError(f"{where} has a type that cannot be stored ({_name(member)}): pass values, not code")
        hints = _fields(member, where)
        if hints is not None and member not in seen:
            seen.add(member)
            for name, hint in hints.items():
                _refuse(hint, f"{where}: field {name!r} of {member.__name__}", seen)
        for argument in () if get_origin(member) is Literal else get_args(member):
            _refuse(argument, where, seen)


def _fields(member: Any, where: str) -> dict[str, Any] | None:
    """Return the types of a class's fields by name, or None where it is no class with fields."""
    if not isinstance(member, type):
        return None
    if issubclass(member, BaseModel):
        return {name: field.annotation for name, field in member.model_fields.items()}
    if dataclasses.is_dataclass(member):
        names = {field.name for field in dataclasses.fields(member)}
    elif is_typeddict(member):
        names = set(member.__annotations__)
    else:
        return None
    try:
        hints = get_type_hints(member, include_extras=True)
    except (NameError, TypeError) as error:
        raise DefinitionError(
            f"{where}: the type hints of {member.__name__} cannot be resolved: {error}; "
            "import their types at module level, not under TYPE_CHECKING"
        ) from error
    return {name: hints[name] for name in sorted(names) if name in hints}


def _alike(one: Any, other: Any, where: str) -> bool:
    fields, other_fields = _fields(one, where), _fields(other, where)
    if fields is not None and other_fields is not None:
        contained = fields.keys() <= other_fields.keys() or other_fields.keys() <= fields.keys()
        return contained and not _told_apart(fields, other_fields)
    if fields is not None or other_fields is not None:
        return dict in (_bare(one), _bare(other))
    if _is(one, _ARRAYS) and _is(other, _ARRAYS):
        return True
    return (one is str and _is(other, _STRINGS)) or (other is str and _is(one, _STRINGS))


def _told_apart(fields: dict[str, Any], other_fields: dict[str, Any]) -> bool:
    for name in fields.keys() & other_fields.keys():
        one, other = fields[name], other_fields[name]
        if get_origin(one) is Literal and get_origin(other) is Literal and not {*get_args(one)} & {*get_args(other)}:
            return True
    return False


def _is(member: Any, kinds: tuple[type, ...]) -> bool:
    bare = _bare(member)
    return isinstance(bare, type) and issubclass(bare, kinds)


def _bare(member: Any) -> Any:
    return get_origin(member) or member


def _name(member: Any) -> str:
    return str(getattr(member, "__name__", None) or repr(member))
