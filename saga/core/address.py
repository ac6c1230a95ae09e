"""A run's address, `saga/key`: what is allowed in it, and the shard it hashes to. It knows no runs."""

from __future__ import annotations

import hashlib
import os
import time
from datetime import datetime
from uuid import UUID

from saga.core.errors import ValueRefused

#: Characters that a business key may have.
KEY_CHARACTERS_MAX = 200


def check_key(key: object, called: str = "id", *, characters_max: int = KEY_CHARACTERS_MAX) -> str:
    """Return the key if it can be one: the business key of a run, or what else is named for as long as a run.

    Raises:
        ValueRefused: it is empty, too long, or has control characters.
    """
    if not isinstance(key, str) or not 1 <= len(key) <= characters_max or not key.isprintable():
        raise ValueRefused(f"{called}={key!r}: expected 1 to {characters_max} printable characters, such as 'order-7'")
    return key


def shard_of(saga: str, key: str, shards: int) -> int:
    """Return the shard of a run: a stable hash, the same in every process and release."""
    digest = hashlib.sha256(f"{saga}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % shards


def new_run_id() -> UUID:
    """Return a UUIDv7: 48 bits of Unix milliseconds, then random bits (RFC 9562, section 5.7)."""
    return _version_7(time.time_ns() // 1_000_000, os.urandom(10))


def child_run_id(at: datetime, token: UUID, attempt: int) -> UUID:
    """Return the id of the child that an attempt starts: a UUIDv7 too, but derived, so that it survives any rewind."""
    digest = hashlib.sha256(token.bytes + attempt.to_bytes(4, "big")).digest()
    return _version_7(round(at.timestamp() * 1_000), digest[:10])


def _version_7(milliseconds: int, bits: bytes) -> UUID:
    value = (milliseconds << 80) | int.from_bytes(bits, "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return UUID(int=value)
