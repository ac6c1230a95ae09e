"""A run's address, `saga/key`: what is allowed in it, and the shard it hashes to. It knows no runs."""

from __future__ import annotations

import hashlib
import os
import time
from uuid import UUID

from saga.core.errors import ValueRefused

#: Characters that a business key may have.
KEY_CHARACTERS_MAX = 200


def check_key(key: object) -> str:
    """Return the key if it can be one.

    Raises:
        ValueRefused: it is empty, too long, or has control characters.
    """
    if not isinstance(key, str) or not 1 <= len(key) <= KEY_CHARACTERS_MAX or not key.isprintable():
        raise ValueRefused(
            f"id={key!r}: expected 1 to {KEY_CHARACTERS_MAX} printable characters, such as 'order-7'; "
            "it is the run's name for ever"
        )
    return key


def shard_of(saga: str, key: str, shards: int) -> int:
    """Return the shard of a run: a stable hash, the same in every process and release."""
    digest = hashlib.sha256(f"{saga}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % shards


def new_run_id() -> UUID:
    """Return a UUIDv7: 48 bits of Unix milliseconds, then random bits (RFC 9562, section 5.7)."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | int.from_bytes(os.urandom(10), "big")
    value = (value & ~(0xF << 76)) | (0x7 << 76)
    value = (value & ~(0x3 << 62)) | (0x2 << 62)
    return UUID(int=value)
