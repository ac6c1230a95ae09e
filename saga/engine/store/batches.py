"""A batch as the arguments of `commit_turns_v1`. It knows that call's shape, and sends nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from saga.engine.records import Batch


def arguments_of(me: UUID, batch: Batch) -> tuple[Any, ...]:
    """Turn a batch into the call's arguments, None for what is empty: the function then skips the statement.

    One JSON text a table: it is encoded in C, where a list of columns costs a Python call a cell. A lone surrogate or a
    NUL arrives escaped, and is refused there with a SQLSTATE of class 22.

    Raises:
        ValueError: a number is not finite.
    """
    return (
        me,
        batch.taken or None,
        _json(
            {"run": str(run), "name": name, "fired": fired}
            for timers, fired in ((batch.timers_gone, True), (batch.timers_cancelled, False))
            for run, name in timers
        ),
        _json(
            {
                "id": str(r.id),
                "saga": r.saga,
                "key": r.key,
                "shard": r.shard,
                "version": r.version,
                "build": r.build,
                "status": r.status,
                "reason": r.reason,
                "cause": r.cause,
                "head": r.head,
                "digest": _bytea(r.digest),
                "input_digest": _bytea(r.input_digest),
                "input": r.input,
                "result": r.result,
                "failure": r.failure,
                "started_at": r.started_at.isoformat(),
                "ended_at": r.ended_at and r.ended_at.isoformat(),
                "state": r.state,
                "attributes": r.attributes and json.loads(r.attributes),
            }
            for r in batch.runs
        ),
        _json(
            {
                "id": str(c.id),
                "old_head": c.old_head,
                "head": c.head,
                "build": c.build,
                "status": c.status,
                "reason": c.reason,
                "cause": c.cause,
                "digest": _bytea(c.digest),
                "result": c.result,
                "failure": c.failure,
                "ended_at": c.ended_at and c.ended_at.isoformat(),
                "state": c.state,
                "attributes": c.attributes and json.loads(c.attributes),
            }
            for c in batch.changes
        ),
        _json(
            {
                "run": str(n.run),
                "seq": n.event.seq,
                "kind": n.event.kind,
                "at": n.event.at.isoformat(),
                "token": n.event.token and str(n.event.token),
                "attempt": n.event.attempt,
                "claimant": n.event.claimant and str(n.event.claimant),
                "key": n.event.key,
                "payload": n.event.payload,
                "digest": _bytea(n.digest),
            }
            for n in batch.events
        ),
        batch.fences or None,
        batch.kills or None,
        _json(
            {
                "token": str(t.token),
                "attempt": t.attempt,
                "run": str(t.run),
                "shard": t.shard,
                "name": t.name,
                "queue": t.queue,
                "input": t.input,
                "lease_seconds": t.lease_seconds,
                "limit_seconds": t.limit_seconds,
                "beats": t.beats,
                "progress": t.progress,
            }
            for t in batch.tasks
        ),
        _json(
            {"run": str(t.run), "name": t.name, "shard": t.shard, "due_at": t.due_at.isoformat()} for t in batch.timers
        ),
        _json(
            {
                "run": i.run and str(i.run),
                "token": i.token and str(i.token),
                "attempt": i.attempt,
                "kind": i.kind,
                "payload": i.payload,
            }
            for i in batch.incidents
        ),
        _json(
            {
                "shard": s.shard,
                "lane": s.lane,
                "run": str(s.run),
                "saga": s.saga,
                "key": s.key,
                "kind": s.kind,
                "token": s.token and str(s.token),
                "attempt": s.attempt,
                "dedupe": s.dedupe,
                "payload": s.payload,
            }
            for s in batch.sent
        ),
        _json(
            {
                "name": q.name,
                "run": str(q.run),
                "shard": q.shard,
                "token": str(q.token),
                "attempt": q.attempt,
                "wait": q.wait,
                "holder": q.holder,
            }
            for q in batch.lock_requests
        ),
        batch.locks_withdrawn or None,
        batch.locks_released or None,
    )


def _json(rows: Iterable[dict[str, Any]]) -> str | None:
    listed = list(rows)
    return json.dumps(listed, allow_nan=False, separators=(",", ":")) if listed else None


def _bytea(digest: bytes) -> str:
    return "\\x" + digest.hex()
