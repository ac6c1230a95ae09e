"""What a worker does with a task row: claim it, renew it, record its outcome (P2-P6). It runs no user code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

from saga.core.events import NOBODY, EventKind
from saga.engine.records import Claim
from saga.engine.store.connect import Connection
from saga.engine.store.failures import watch_replication
from saga.engine.store.names import statement

if TYPE_CHECKING:
    import sqlalchemy

# One UPDATE by primary key. "Or mine": without it a lost reply would make this delivery drop its own claim. It commits
# asynchronously: a crash of Postgres may forget it, but empties `unbroken` too, and nothing more can be claimed until
# all that is unclaimed then has been taken for claimed (Membership.remember). Where standbys are waited for, it waits
# too: a primary that was superseded unawares must not hand out claims. So it does on Aurora, where a crash leaves
# unlogged tables as they are.
_CLAIM = """
UPDATE {s}.task
SET claimed_by = %(claimant)s, claimed_at = clock_timestamp(),
    lease_until = clock_timestamp() + make_interval(secs => lease_seconds)
WHERE token = %(token)s AND attempt = %(attempt)s
  AND (claimed_by IS NULL AND EXISTS (SELECT FROM {s}.unbroken) OR claimed_by = %(claimant)s)
RETURNING run, shard, name, input, lease_seconds, limit_seconds, beats, progress,
    CASE WHEN current_setting('synchronous_standby_names') = '' AND to_regproc('aurora_version') IS NULL
         THEN set_config('synchronous_commit', 'off', true) END
"""

# Mine, or what a crash of Postgres made of it: nobody else can have claimed this attempt before, nor can after.
_MINE = f"COALESCE(claimed_by, '{NOBODY}') IN ({{claimant}}, '{NOBODY}')"

# LEAST leaves a null out: a step without a limit is renewed as long as its worker lives.
_RENEW = """
UPDATE {s}.task
SET claimed_by = {claimant}, claimed_at = COALESCE(claimed_at, clock_timestamp()), lease_until = LEAST(
    clock_timestamp() + make_interval(secs => lease_seconds),
    claimed_at + make_interval(secs => limit_seconds + %(grace)s))
WHERE token = %(token)s AND attempt = %(attempt)s AND {mine}
"""

# Asynchronous: what a crash of Postgres forgets of it, the next beat tells again.
_BEAT = """
UPDATE {s}.task
SET claimed_by = {claimant}, claimed_at = COALESCE(claimed_at, clock_timestamp()), lease_until = LEAST(
    clock_timestamp() + make_interval(secs => lease_seconds),
    claimed_at + make_interval(secs => limit_seconds + %(grace)s)),
    progress = COALESCE(%(progress)s, progress)
WHERE token = %(token)s AND attempt = %(attempt)s AND {mine}
RETURNING set_config('synchronous_commit', 'off', true)
"""

# The fence and the record in one statement: a check before the write would be a race. No row deleted, nothing inserted.
# One round trip and no flush: the next turn's commit flushes it, and what a crash forgets before that is a claim again.
_OUTCOME = """
WITH done AS (
    DELETE FROM {s}.task WHERE token = {token} AND attempt = {attempt} AND {mine}
    RETURNING run, shard
), told AS (
    INSERT INTO {s}.inbox (shard, lane, run, kind, token, attempt, claimant, payload)
    SELECT shard, 0, run, {kind}, {token}, {attempt}, {claimant}, {payload} FROM done
    RETURNING shard
)
SELECT {bell}{unflushed} FROM told
"""

_UNFLUSHED = ", set_config('synchronous_commit', 'off', true)"

_LATE = """
WITH told AS (
    INSERT INTO {s}.inbox (shard, lane, run, kind, token, attempt, claimant, payload)
    VALUES (%(shard)s, 0, %(run)s, 'OutcomeLate', %(token)s, %(attempt)s, %(claimant)s, %(payload)s)
    RETURNING shard
)
SELECT {bell} FROM told
"""

# FOR UPDATE waits for the transaction whose COMMIT got lost: without it, one still in the network would read as undone.
_STILL_CLAIMED = "SELECT 1 FROM {s}.task WHERE token = {token} AND attempt = {attempt} AND {mine} FOR UPDATE"

_PSYCOPG_MARKS = {
    "token": "%(token)s",
    "attempt": "%(attempt)s",
    "claimant": "%(claimant)s",
    "kind": "%(kind)s",
    "payload": "%(payload)s",
}
# A driver that SQLAlchemy hands strings to cannot guess the types inside a SELECT.
_ALCHEMY_MARKS = {
    "token": "CAST(:token AS uuid)",
    "attempt": "CAST(:attempt AS integer)",
    "claimant": "CAST(:claimant AS uuid)",
    "kind": "CAST(:kind AS text)",
    "payload": "CAST(:payload AS text)",
}


class Working:
    """P2-P6, bound to a schema. Any psycopg error means "nobody knows": the same again until there is an answer."""

    def __init__(self, schema: str) -> None:
        self._claim = statement(schema, _CLAIM)
        self._renew = statement(schema, _fill(_RENEW, _PSYCOPG_MARKS))
        self._beat = statement(schema, _fill(_BEAT, _PSYCOPG_MARKS))
        self._outcome = statement(schema, _fill(_OUTCOME, _PSYCOPG_MARKS, unflushed=_UNFLUSHED))
        self._outcome_text = statement(schema, _fill(_OUTCOME, _ALCHEMY_MARKS)).decode()
        self._late = statement(schema, _LATE)
        self._still_claimed = statement(schema, _fill(_STILL_CLAIMED, _PSYCOPG_MARKS))

    def claim(self, connection: Connection, token: UUID, attempt: int, claimant: UUID) -> Claim | None:
        """P2: claim an attempt for one delivery and get its input; None: done, fenced, superseded or another's.

        The claimant is new with every delivery: were it the process, a redelivery would claim its own running step.
        None also after a crash of Postgres, as long as nobody has seen to what it may have forgotten.

        Raises:
            CommitUnknown: the claim is maybe not on the synchronous standby; claim again.
            psycopg.Error: nobody knows; claim again, and run nothing before there is an answer.
        """
        values = {"token": token, "attempt": attempt, "claimant": claimant}
        with watch_replication(connection):
            row = connection.execute(self._claim, values).fetchone()
        return None if row is None else Claim(token, attempt, claimant, *row[:8])

    def renew(self, connection: Connection, claim: Claim, *, grace_seconds: float) -> bool:
        """P3: prolong the claim, at most to its limit and grace; False: fenced, the outcome will be a late one.

        Raises:
            psycopg.Error: nobody knows; renew again.
        """
        values = {**_address(claim), "grace": grace_seconds}
        return connection.execute(self._renew, values).rowcount == 1

    def beat(self, connection: Connection, claim: Claim, progress: str | None, *, grace_seconds: float) -> bool:
        """P3, by the step itself: the same, and keep how far it is (JSON text; None: as before); False: fenced.

        Raises:
            psycopg.Error: nobody knows; beat again.
        """
        values = {**_address(claim), "grace": grace_seconds, "progress": progress}
        return connection.execute(self._beat, values).rowcount == 1

    def record_outcome(self, connection: Connection, claim: Claim, kind: str, payload: str | None) -> bool:
        """P4: end the attempt and tell its run in one statement; False: fenced, nothing was written, tell it late (P5).

        Raises:
            psycopg.Error: nobody knows; record again until there is an answer, and do not acknowledge before.
        """
        values = {**_address(claim), "kind": kind, "payload": payload}
        return connection.execute(self._outcome, values).rowcount == 1

    def record_outcome_within(
        self, connection: sqlalchemy.Connection, claim: Claim, kind: str, payload: str | None
    ) -> bool:
        """P4 in the transaction of a transactional step (P6); False: fenced, so roll back.

        Raises:
            sqlalchemy.exc.DBAPIError: the statement failed; roll back.
        """
        from sqlalchemy import text

        values: dict[str, Any] = {
            "token": str(claim.token),
            "attempt": claim.attempt,
            "claimant": str(claim.claimant),
            "kind": kind,
            "payload": payload,
        }
        return connection.execute(text(self._outcome_text), values).first() is not None

    def record_late(self, connection: Connection, claim: Claim, kind: str, payload: str | None) -> None:
        """P5: tell what a fenced worker knows: it may be the only witness of an effect.

        The turn drops what it has already seen from this claimant, so sending it twice is harmless.

        Raises:
            psycopg.Error: nobody knows; tell it again.
        """
        told = f'{{"kind": {json.dumps(kind)}, "payload": {"null" if payload is None else payload}}}'
        values = {**_address(claim), "run": claim.run, "shard": claim.shard, "payload": told}
        connection.execute(self._late, values)

    def still_claimed(self, connection: Connection, claim: Claim) -> bool:
        """P6, after a COMMIT without an answer: wait for the old transaction, then see whether the attempt is mine.

        True: nothing landed, it may run again. False: it landed, or was fenced before.

        Raises:
            psycopg.Error: nobody knows; ask again.
        """
        return connection.execute(self._still_claimed, _address(claim)).rowcount == 1


def late_payload(payload: str) -> tuple[EventKind, Any]:
    """Read what `record_late` wrote: the kind of the outcome, and its decoded payload.

    Raises:
        ValueError: it is not what `record_late` writes.
    """
    told = json.loads(payload)
    return EventKind(told["kind"]), told["payload"]


def _address(claim: Claim) -> dict[str, Any]:
    return {"token": claim.token, "attempt": claim.attempt, "claimant": claim.claimant}


def _fill(text: str, marks: dict[str, str], *, unflushed: str = "") -> str:
    text = text.replace("{mine}", _MINE).replace("{unflushed}", unflushed)
    for name, mark in marks.items():
        text = text.replace("{" + name + "}", mark)
    return text
