"""Reads what a person gives as JSON text by a declared type, and says what shape was expected.

It knows types, and not where the text came from.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from saga.core.errors import ValueRefused
from saga.engine.codec import Value


def load(value: Value, text: str, name: str, what: str) -> Any:
    """Read JSON text as a declared type.

    Raises:
        ValueRefused: it does not fit; the message says where, what was expected, and never repeats the value.
    """
    try:
        return value.adapter.validate_json(text)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'the whole of it'}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False, include_context=False)[:5]
        )
        raise ValueRefused(f"{name} does not fit {what}: {problems}; expected {shape(value)}") from None


def shape(value: Value) -> str:
    """Describe a declared type briefly, such as `{"id": string, "quantity": integer}`."""
    try:
        schema = value.adapter.json_schema()
    except Exception:  # pydantic has several errors for types without a JSON schema
        return "JSON of its declared type"
    return _shape(schema, schema.get("$defs", {}), depth=3)


def _shape(schema: dict[str, Any], known: dict[str, Any], depth: int) -> str:
    if "$ref" in schema:
        schema = known.get(str(schema["$ref"]).rpartition("/")[2], {})
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_shape(one, known, depth) for one in schema[key])
    if "const" in schema or "enum" in schema:
        return " or ".join(json.dumps(one) for one in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"[{_shape(schema.get('items', {}), known, depth)}, …]"
    if schema.get("type") == "object" and schema.get("properties") and depth:
        required = set(schema.get("required", ()))
        fields = (
            f'"{name}"{"" if name in required else "?"}: {_shape(field, known, depth - 1)}'
            for name, field in schema["properties"].items()
        )
        return "{" + ", ".join(fields) + "}"
    return str(schema.get("type", "any JSON"))
