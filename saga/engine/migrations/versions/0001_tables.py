"""The first tables, the append-only guard of the log, and the one call that commits a batch of turns.

Runs before the deploy of the code that needs it. What each table means is told in `saga/engine/schema.py`. Lists of
statuses and kinds are written out here, since a migration must not change when the code does; a contract test holds
them against `saga.core`.
"""

from __future__ import annotations

from alembic import context, op

from saga.engine.store.names import statement

revision = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

TABLES = """
CREATE TABLE {s}.coordinator (
    id uuid PRIMARY KEY,
    build text NOT NULL,
    lease_until timestamptz NOT NULL,
    dead_at timestamptz,
    published bigint NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

CREATE TABLE {s}.shard (
    id smallint PRIMARY KEY CHECK (id >= 0),
    owner uuid REFERENCES {s}.coordinator (id),
    epoch bigint NOT NULL DEFAULT 0,
    republish_from bigint,
    suspect uuid,
    strikes smallint NOT NULL DEFAULT 0 CHECK (strikes >= 0)
) WITH (fillfactor = 50);

INSERT INTO {s}.shard (id) SELECT generate_series(0, 63);

CREATE TABLE {s}.run (
    id uuid PRIMARY KEY,
    saga text NOT NULL,
    key text NOT NULL,
    shard smallint NOT NULL CHECK (shard BETWEEN 0 AND 63),
    version integer NOT NULL,
    build text NOT NULL,
    status text NOT NULL
        CHECK (status IN ('running', 'compensating', 'stalled', 'completed', 'compensated', 'terminated')),
    reason text,
    cause text,
    head integer NOT NULL CHECK (head > 0),
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    input_digest bytea NOT NULL CHECK (octet_length(input_digest) = 32),
    input text NOT NULL,
    result text,
    failure text,
    state text,
    attributes jsonb NOT NULL DEFAULT '{{}}',
    started_at timestamptz NOT NULL,
    ended_at timestamptz,
    CONSTRAINT run_address UNIQUE (saga, key),
    CONSTRAINT run_ended_when_it_says_so
        CHECK ((ended_at IS NOT NULL) = (status IN ('completed', 'compensated', 'terminated'))),
    CONSTRAINT run_stalls_with_a_reason CHECK (status <> 'stalled' OR reason IS NOT NULL)
) WITH (fillfactor = 80);

CREATE INDEX run_status_id ON {s}.run (status, id);

-- Without a pending list: emptying a full one would hold up the turn that fills it, and each search reads all of it.
CREATE INDEX run_attributes ON {s}.run USING gin (attributes jsonb_path_ops) WITH (fastupdate = off)
    WHERE attributes <> '{{}}';

CREATE TABLE {s}.event (
    run uuid NOT NULL,
    seq integer NOT NULL CHECK (seq > 0),
    kind text NOT NULL,
    at timestamptz NOT NULL,
    token uuid,
    attempt integer,
    claimant uuid,
    key text,
    payload text,
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    CONSTRAINT event_pkey PRIMARY KEY (run, seq)
);

CREATE UNIQUE INDEX event_one_end ON {s}.event (run)
    WHERE kind IN ('RunCompleted', 'RunCompensated', 'RunTerminated');

CREATE TABLE {s}.task (
    token uuid PRIMARY KEY,
    attempt integer NOT NULL CHECK (attempt > 0),
    id bigint GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME {s}.task_id_seq),
    run uuid NOT NULL,
    shard smallint NOT NULL CHECK (shard BETWEEN 0 AND 63),
    name text NOT NULL,
    queue text NOT NULL,
    input text NOT NULL,
    lease_seconds double precision NOT NULL CHECK (lease_seconds > 0),
    limit_seconds double precision CHECK (limit_seconds > 0),
    beats boolean NOT NULL DEFAULT false,
    progress text,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    claimed_by uuid,
    claimed_at timestamptz,
    lease_until timestamptz,
    CONSTRAINT task_claimed_with_a_lease CHECK ((claimed_by IS NULL) = (lease_until IS NULL))
) WITH (
    fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX task_shard_id ON {s}.task (shard, id);

-- Unlogged: a crash of Postgres empties it, and only a crash does. No row: claims may have been forgotten.
CREATE UNLOGGED TABLE {s}.unbroken (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    since timestamptz NOT NULL DEFAULT clock_timestamp()
);

INSERT INTO {s}.unbroken DEFAULT VALUES;

CREATE TABLE {s}.inbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard smallint NOT NULL CHECK (shard BETWEEN 0 AND 63),
    lane smallint NOT NULL CHECK (lane IN (0, 1)),
    run uuid,
    saga text,
    key text,
    kind text NOT NULL,
    token uuid,
    attempt integer,
    claimant uuid,
    dedupe text,
    payload text,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT inbox_is_addressed CHECK (run IS NOT NULL OR (saga IS NOT NULL AND key IS NOT NULL))
) WITH (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX inbox_shard_lane_id ON {s}.inbox (shard, lane, id);

CREATE TABLE {s}.timer (
    run uuid NOT NULL,
    name text NOT NULL,
    shard smallint NOT NULL CHECK (shard BETWEEN 0 AND 63),
    due_at timestamptz NOT NULL,
    PRIMARY KEY (run, name)
) WITH (
    autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000,
    autovacuum_analyze_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 0
);

CREATE INDEX timer_shard_due_at ON {s}.timer (shard, due_at);

CREATE TABLE {s}.incident (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run uuid,
    token uuid,
    attempt integer,
    kind text NOT NULL,
    payload text,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE INDEX incident_run ON {s}.incident (run);

CREATE TABLE {s}.lock (
    name text NOT NULL,
    run uuid NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    shard smallint NOT NULL CHECK (shard BETWEEN 0 AND 63),
    token uuid NOT NULL,
    attempt integer NOT NULL,
    holder text NOT NULL,
    held boolean NOT NULL DEFAULT false,
    answered uuid,
    PRIMARY KEY (name, run)
);

CREATE UNIQUE INDEX lock_one_holder ON {s}.lock (name) WHERE held;

CREATE INDEX lock_run ON {s}.lock (run);

CREATE INDEX lock_token ON {s}.lock (token);
"""

# The grant alone would do if nobody ever wrote GRANT ALL. The owner is let through, because retention deletes whole
# runs as the owner role, and because a database's owner could drop the trigger anyway.
APPEND_ONLY = """
CREATE FUNCTION {s}.refuse_to_change_the_log() RETURNS trigger LANGUAGE plpgsql AS $saga$
BEGIN
    IF current_user = (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = TG_RELID) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
        MESSAGE = 'the log is append-only: ' || TG_OP || ' on event refused for ' || current_user,
        HINT = 'Only the owner of the table may delete whole runs, for retention.';
END
$saga$;

CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {s}.event
    FOR EACH STATEMENT EXECUTE FUNCTION {s}.refuse_to_change_the_log();
"""

# Semantic locks. Commits that touch one name wait for each other on an advisory lock, taken in one order everywhere;
# who stands first in line then gets the lock, and is answered like an attempt: by an arrival with its token. A colon
# has a backslash where it would begin the name of a parameter; the braces around what `statement` fills are doubled.
TURN_LOCKS = """
CREATE FUNCTION {s}.turn_locks_v1(p_requests json, p_withdrawn uuid[], p_released uuid[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $saga$
DECLARE
    names text[];
    found_rows bigint;
BEGIN
    SELECT array_agg(DISTINCT n.name) INTO names FROM (
        SELECT l.name FROM {s}.lock l WHERE l.run = ANY (p_released)
        UNION ALL SELECT l.name FROM {s}.lock l WHERE l.token = ANY (p_withdrawn)
        UNION ALL SELECT x.name FROM json_to_recordset(p_requests) AS x(name text)
    ) n;
    IF names IS NULL THEN
        RETURN;
    END IF;
    -- Above the numbers of the shards, which are the bells' in the same space.
    PERFORM pg_advisory_xact_lock({{k}}, h.hash) FROM (
        SELECT DISTINCT 64 + (hashtext(n.name) & 1073741823) AS hash FROM unnest(names) n(name) ORDER BY hash
    ) h;
    -- First, because a run may withdraw, or end, in the batch in which it asks: then its place must go again.
    -- A run that has the lock already, or stands in line, asks again: its place stays, the new token is answered.
    INSERT INTO {s}.lock AS l (name, run, shard, token, attempt, holder)
        SELECT x.name, x.run, x.shard, x.token, x.attempt, x.holder
        FROM json_to_recordset(p_requests) AS x(
            name text, run uuid, shard smallint, token uuid, attempt integer, holder text)
        ON CONFLICT (name, run) DO UPDATE SET token = excluded.token, attempt = excluded.attempt;
    WITH gone AS (
        DELETE FROM {s}.lock l WHERE l.token = ANY (p_withdrawn) AND NOT l.held
        RETURNING l.shard, l.run, l.token, l.attempt
    ), told AS (
        INSERT INTO {s}.inbox (shard, lane, run, kind, token, attempt)
        SELECT g.shard, 0, g.run, 'StepNeverStarted', g.token, g.attempt FROM gone g RETURNING shard
    )
    SELECT count({{bell}}) INTO found_rows FROM told;
    DELETE FROM {s}.lock l WHERE l.run = ANY (p_released);
    -- A statement of its own before the answers: parts of one statement do not see what the others change.
    UPDATE {s}.lock l SET held = true
        WHERE (l.name, l.id) IN (
            SELECT w.name, min(w.id) FROM {s}.lock w WHERE w.name = ANY (names)
            GROUP BY w.name HAVING NOT bool_or(w.held)
        );
    WITH answered AS (
        UPDATE {s}.lock l SET answered = l.token
        WHERE l.name = ANY (names) AND l.held AND l.answered IS DISTINCT FROM l.token
        RETURNING l.shard, l.run, l.token, l.attempt
    ), told AS (
        INSERT INTO {s}.inbox (shard, lane, run, kind, token, attempt, payload)
        SELECT a.shard, 0, a.run, 'StepSucceeded', a.token, a.attempt, '{{"value"\\:null}}' FROM answered a
        RETURNING shard
    )
    SELECT count({{bell}}) INTO found_rows FROM told;
    WITH refused AS (
        DELETE FROM {s}.lock l USING json_to_recordset(p_requests) AS x(token uuid, wait boolean)
        WHERE l.token = x.token AND NOT x.wait AND NOT l.held
        RETURNING l.name, l.shard, l.run, l.token, l.attempt
    ), told AS (
        INSERT INTO {s}.inbox (shard, lane, run, kind, token, attempt, payload)
        SELECT r.shard, 0, r.run, 'StepFailed', r.token, r.attempt,
               '{{"value"\\:' || json_build_object('type', '', 'message', 'it is held by ' || h.holder) || '}}'
        FROM refused r JOIN {s}.lock h ON h.name = r.name AND h.held RETURNING shard
    )
    SELECT count({{bell}}) INTO found_rows FROM told;
END
$saga$;

REVOKE EXECUTE ON FUNCTION {s}.turn_locks_v1 FROM PUBLIC;
"""

# P9. One server-side call, because a client that freezes between two statements would hold these locks and no timeout
# would fire. The plan is pinned: one made while `inbox` or `task` is nearly empty would keep its sequential scan.
# The name carries a version, so that coordinators of the old and the new code can commit side by side in a deploy.
COMMIT_TURNS = """
CREATE FUNCTION {s}.commit_turns_v1(
    p_me uuid, p_taken bigint[], p_timers_gone json, p_runs json, p_changes json, p_events json,
    p_fences uuid[], p_kills uuid[], p_tasks json, p_timers json, p_incidents json,
    p_sent json, p_lock_requests json, p_locks_withdrawn uuid[], p_locks_released uuid[]
) RETURNS TABLE (task_token uuid, task_id bigint)
LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $saga$
DECLARE
    found_rows bigint;
BEGIN
    -- The fence is one exclusive row lock. With a shared one, a lost COMMIT could still be in the network while the
    -- next connection already reads "not committed".
    PERFORM 1 FROM {s}.coordinator c WHERE c.id = p_me AND c.dead_at IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'SG002', MESSAGE = 'coordinator ' || p_me || ' is buried or unknown';
    END IF;
    IF NOT EXISTS (SELECT FROM {s}.unbroken) THEN
        RAISE EXCEPTION USING ERRCODE = 'SG001', MESSAGE = 'Postgres crashed, and may have forgotten claims';
    END IF;
    IF p_taken IS NOT NULL THEN
        DELETE FROM {s}.inbox i WHERE i.id = ANY (p_taken);
        GET DIAGNOSTICS found_rows = ROW_COUNT;
        IF found_rows <> cardinality(p_taken) THEN
            RAISE EXCEPTION USING ERRCODE = 'SG001', MESSAGE = 'arrivals of this batch were taken before';
        END IF;
    END IF;
    IF p_timers_gone IS NOT NULL THEN
        -- Only a timer that fired must still be there; one that is cancelled may never have been set.
        WITH gone AS (
            DELETE FROM {s}.timer t USING json_to_recordset(p_timers_gone) AS x(run uuid, name text, fired boolean)
            WHERE t.run = x.run AND t.name = x.name RETURNING x.fired
        )
        SELECT count(*) FILTER (WHERE fired) INTO found_rows FROM gone;
        IF found_rows <> (
            SELECT count(*) FILTER (WHERE fired) FROM json_to_recordset(p_timers_gone) AS x(fired boolean)
        ) THEN
            RAISE EXCEPTION USING ERRCODE = 'SG001', MESSAGE = 'timers of this batch are gone already';
        END IF;
    END IF;
    IF p_runs IS NOT NULL THEN
        INSERT INTO {s}.run (id, saga, key, shard, version, build, status, reason, cause, head, digest, input_digest,
                             input, result, failure, started_at, ended_at, state, attributes)
            SELECT x.id, x.saga, x.key, x.shard, x.version, x.build, x.status, x.reason, x.cause, x.head, x.digest,
                   x.input_digest, x.input, x.result, x.failure, x.started_at, x.ended_at, x.state,
                   coalesce(x.attributes, '{{}}')
            FROM json_to_recordset(p_runs) AS x(
                id uuid, saga text, key text, shard smallint, version integer, build text, status text, reason text,
                cause text, head integer, digest bytea, input_digest bytea, input text, result text, failure text,
                started_at timestamptz, ended_at timestamptz, state text, attributes jsonb)
            ON CONFLICT DO NOTHING;
        GET DIAGNOSTICS found_rows = ROW_COUNT;
        IF found_rows <> json_array_length(p_runs) THEN
            RAISE EXCEPTION USING ERRCODE = 'SG001', MESSAGE = 'runs of this batch exist already';
        END IF;
    END IF;
    IF p_changes IS NOT NULL THEN
        -- Compare-and-set on the head: a cached run may be ahead of, or behind, what the database holds.
        UPDATE {s}.run r
            SET head = x.head, build = x.build, status = x.status, reason = x.reason, cause = x.cause,
                digest = x.digest, result = x.result, failure = x.failure, ended_at = x.ended_at,
                state = coalesce(x.state, r.state), attributes = coalesce(x.attributes, r.attributes)
            FROM json_to_recordset(p_changes) AS x(
                id uuid, old_head integer, head integer, build text, status text, reason text, cause text,
                digest bytea, result text, failure text, ended_at timestamptz, state text, attributes jsonb)
            WHERE r.id = x.id AND r.head = x.old_head;
        GET DIAGNOSTICS found_rows = ROW_COUNT;
        IF found_rows <> json_array_length(p_changes) THEN
            RAISE EXCEPTION USING ERRCODE = 'SG001', MESSAGE = 'runs of this batch have another head';
        END IF;
    END IF;
    IF p_events IS NOT NULL THEN
        INSERT INTO {s}.event (run, seq, kind, at, token, attempt, claimant, key, payload, digest)
            SELECT x.run, x.seq, x.kind, x.at, x.token, x.attempt, x.claimant, x.key, x.payload, x.digest
            FROM json_to_recordset(p_events) AS x(
                run uuid, seq integer, kind text, at timestamptz, token uuid, attempt integer, claimant uuid,
                key text, payload text, digest bytea);
    END IF;
    IF p_fences IS NOT NULL THEN
        -- What somebody has claimed stays: its outcome, or its loss, is awaited.
        WITH fenced AS (
            DELETE FROM {s}.task t WHERE t.token = ANY (p_fences) AND t.claimed_by IS NULL
            RETURNING t.run, t.shard, t.token, t.attempt
        )
        INSERT INTO {s}.inbox (shard, lane, run, kind, token, attempt)
            SELECT f.shard, 0, f.run, 'StepNeverStarted', f.token, f.attempt FROM fenced f;
    END IF;
    IF p_kills IS NOT NULL THEN
        DELETE FROM {s}.task t WHERE t.token = ANY (p_kills);
    END IF;
    IF p_timers IS NOT NULL THEN
        INSERT INTO {s}.timer (run, name, shard, due_at)
            SELECT x.run, x.name, x.shard, x.due_at
            FROM json_to_recordset(p_timers) AS x(run uuid, name text, shard smallint, due_at timestamptz)
            ON CONFLICT (run, name) DO UPDATE SET due_at = excluded.due_at;
    END IF;
    IF p_incidents IS NOT NULL THEN
        INSERT INTO {s}.incident (run, token, attempt, kind, payload)
            SELECT x.run, x.token, x.attempt, x.kind, x.payload
            FROM json_to_recordset(p_incidents) AS x(run uuid, token uuid, attempt integer, kind text, payload text);
    END IF;
    IF p_sent IS NOT NULL THEN
        WITH sent AS (
            INSERT INTO {s}.inbox (shard, lane, run, saga, key, kind, token, attempt, dedupe, payload)
            SELECT x.shard, x.lane, x.run, x.saga, x.key, x.kind, x.token, x.attempt, x.dedupe, x.payload
            FROM json_to_recordset(p_sent) AS x(shard smallint, lane smallint, run uuid, saga text, key text,
                kind text, token uuid, attempt integer, dedupe text, payload text)
            RETURNING shard
        )
        SELECT count({{bell}}) INTO found_rows FROM sent;
    END IF;
    IF p_lock_requests IS NOT NULL OR p_locks_withdrawn IS NOT NULL OR p_locks_released IS NOT NULL THEN
        PERFORM {s}.turn_locks_v1(p_lock_requests, p_locks_withdrawn, p_locks_released);
    END IF;
    IF p_tasks IS NOT NULL THEN
        RETURN QUERY
            INSERT INTO {s}.task AS t (token, attempt, run, shard, name, queue, input, lease_seconds, limit_seconds,
                                       beats, progress)
            SELECT x.token, x.attempt, x.run, x.shard, x.name, x.queue, x.input, x.lease_seconds, x.limit_seconds,
                   coalesce(x.beats, false), x.progress
            FROM json_to_recordset(p_tasks) AS x(
                token uuid, attempt integer, run uuid, shard smallint, name text, queue text, input text,
                lease_seconds double precision, limit_seconds double precision, beats boolean, progress text)
            RETURNING t.token, t.id;
    END IF;
END
$saga$;

REVOKE EXECUTE ON FUNCTION {s}.commit_turns_v1 FROM PUBLIC;
"""


def upgrade() -> None:
    """Create everything in the schema that `saga.engine.schema` asked for, already quoted."""
    quoted: str = context.config.attributes["quoted"]
    schema: str = context.config.attributes["schema"]
    for ddl in (TABLES, APPEND_ONLY, TURN_LOCKS, COMMIT_TURNS):
        op.execute(statement(schema, ddl.strip().format(s=quoted)).decode())


def downgrade() -> None:
    """Refuse: the log is the only truth about its runs."""
    raise RuntimeError("saga: going back from 0001 would drop every run; drop the schema by hand if that is meant")
