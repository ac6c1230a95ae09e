"""The names in the statements: the quoted schema, the doorbell's channel and lock space. It runs nothing itself."""

from __future__ import annotations

import hashlib
import re

from saga.core.errors import ConfigurationError

#: An identifier that needs no escape inside quotes; 63 bytes is where Postgres cuts names off.
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,62}")


def quoted(schema: str) -> str:
    """Return the schema's name in double quotes.

    Raises:
        ConfigurationError: the name is not a plain identifier, or is one that Postgres keeps for itself.
    """
    if not _IDENTIFIER.fullmatch(schema) or schema.lower().startswith("pg_"):
        raise ConfigurationError(
            f"saga_schema is {schema!r}: expected a letter or underscore, then letters, digits, underscores or $, "
            "63 characters at most, not beginning with pg_; set app.conf.saga_schema to such a name"
        )
    return f'"{schema}"'


def channel_of(schema: str) -> str:
    """Return the NOTIFY channel of a schema: readable where it fits into 63 bytes, a hash where it does not."""
    channel = f"saga:{schema}"
    return channel if len(channel) <= 63 else "saga:" + hashlib.sha256(schema.encode()).hexdigest()[:40]


def statement(schema: str, text: str, **parts: str) -> bytes:
    """Write the schema into a statement: `{s}` its quoted name, `{k}` the lock space, `{bell}` the doorbell.

    `parts` fill places of their own names, before the others.

    Names are always qualified, never left to a search_path, so that the statements pass through pgbouncer in
    transaction mode. `{bell}` rings for the column `shard`: only where the shard's owner sleeps, because only a
    sleeper holds the exclusive lock that makes the shared one fail; and whoever gets the shared lock keeps the owner
    awake until this transaction is visible (P19).

    Raises:
        ConfigurationError: the schema's name is not a plain identifier.
    """
    space = f"hashtext('{schema}')"
    bell = (
        f"CASE WHEN NOT pg_try_advisory_xact_lock_shared({space}, shard) "
        f"THEN pg_notify('{channel_of(schema)}', CAST(shard AS text)) END"
    )
    for name, part in parts.items():
        text = text.replace("{" + name + "}", part)
    filled = text.replace("{s}", quoted(schema)).replace("{k}", space).replace("{bell}", bell)
    return filled.replace("{channel}", channel_of(schema)).encode()
