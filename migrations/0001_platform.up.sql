-- Runs and what belongs to them (schema public). Written only by the authority, but for the lease columns'
-- renewal and the outbox relay. Ids are UUIDs made by the program, times are UTC, user ids are text.

CREATE TABLE agent_runs (
    id                 uuid PRIMARY KEY,
    origin             text NOT NULL CHECK (origin IN ('agent_api', 'runtime')),
    user_id            text,
    prompt             text NOT NULL DEFAULT '',
    status             text NOT NULL CHECK (status IN ('created', 'queued', 'planning', 'executing', 'waiting_user',
                           'paused', 'completed', 'failed', 'cancelled', 'timeout')),
    plan               jsonb,
    plan_version       integer NOT NULL DEFAULT 0,
    current_phase      integer NOT NULL DEFAULT 0,
    total_phases       integer NOT NULL DEFAULT 0,
    total_steps        integer NOT NULL DEFAULT 0,
    completed_steps    integer NOT NULL DEFAULT 0,
    failed_steps       integer NOT NULL DEFAULT 0,
    total_tokens_used  bigint NOT NULL DEFAULT 0,
    total_credits_used numeric(10,4) NOT NULL DEFAULT 0,
    priority           integer NOT NULL DEFAULT 0 CHECK (priority BETWEEN 0 AND 9),
    retry_of           uuid REFERENCES agent_runs (id) ON DELETE SET NULL,
    external_id        text,
    attempt            integer NOT NULL DEFAULT 0,
    retry_count        integer NOT NULL DEFAULT 0,
    max_retries        integer NOT NULL DEFAULT 3,
    crash_count        integer NOT NULL DEFAULT 0,
    next_retry_at      timestamptz,
    waiting_for        jsonb,
    error_message      text,
    error_code         text,
    metadata           jsonb NOT NULL DEFAULT '{}',
    -- As the caller of /internal/v1 sent it: `json` keeps the order of keys, which replies must show.
    runtime_metadata   json,
    worker_id          text,
    thread_id          text,
    owner_guest_scope  text,
    traceparent        text NOT NULL DEFAULT '',
    job_id             uuid,
    state_version      bigint NOT NULL DEFAULT 1,
    last_seq           bigint NOT NULL DEFAULT 0,
    last_event_at      timestamptz NOT NULL,
    event_head_hash    text,
    created_at         timestamptz NOT NULL,
    queued_at          timestamptz,
    started_at         timestamptz,
    completed_at       timestamptz,
    paused_at          timestamptz,
    resumed_at         timestamptz,
    deadline_at        timestamptz,
    cancel_requested_at timestamptz,
    lease_owner        text,
    lease_expires_at   timestamptz,
    fencing_token      bigint NOT NULL DEFAULT 0,
    CHECK (origin = 'runtime' OR user_id IS NOT NULL)
) WITH (fillfactor = 80);

CREATE INDEX agent_runs_by_user ON agent_runs (user_id, created_at DESC, id DESC);
-- Runs whose job must be in one of the Redis lists: what the reconciler pages through.
CREATE INDEX agent_runs_live ON agent_runs (id)
    WHERE status IN ('queued', 'planning', 'executing') AND origin = 'agent_api';
CREATE INDEX agent_runs_waiting ON agent_runs (paused_at) WHERE status = 'waiting_user';

CREATE TABLE agent_run_connectors (
    run_id       uuid NOT NULL REFERENCES agent_runs (id) ON DELETE CASCADE,
    connector_id text NOT NULL,
    position     integer NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, connector_id)
);

CREATE TABLE agent_turns (
    run_id     uuid NOT NULL REFERENCES agent_runs (id) ON DELETE CASCADE,
    turn       integer NOT NULL CHECK (turn >= 0),
    raw        json NOT NULL,
    actions    json NOT NULL,
    fault      text,
    model      text NOT NULL,
    provider   text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (run_id, turn)
);

CREATE TABLE agent_steps (
    id              uuid PRIMARY KEY,
    run_id          uuid NOT NULL REFERENCES agent_runs (id) ON DELETE CASCADE,
    step_number     integer NOT NULL CHECK (step_number > 0),
    phase_number    integer NOT NULL,
    turn            integer NOT NULL,
    action          integer NOT NULL,
    tool_name       text NOT NULL,
    tool_input      jsonb,
    tool_output     jsonb,
    effect          text NOT NULL CHECK (effect IN ('pure', 'idempotent', 'at_most_once')),
    status          text NOT NULL CHECK (status IN ('pending', 'running', 'completed', 'failed', 'skipped', 'cancelled')),
    credits_used    numeric(10,4) NOT NULL DEFAULT 0,
    retry_count     integer NOT NULL DEFAULT 0,
    idempotency_key text NOT NULL UNIQUE,
    error_message   text,
    metadata        jsonb NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL,
    started_at      timestamptz,
    completed_at    timestamptz,
    duration_ms     bigint,
    UNIQUE (run_id, step_number),
    UNIQUE (run_id, turn, action)
);

CREATE TABLE agent_messages (
    id           uuid PRIMARY KEY,
    run_id       uuid NOT NULL REFERENCES agent_runs (id) ON DELETE CASCADE,
    step_id      uuid REFERENCES agent_steps (id) ON DELETE SET NULL,
    role         text NOT NULL CHECK (role IN ('user', 'assistant', 'system', 'tool')),
    content      text NOT NULL,
    tool_call_id text,
    tool_name    text,
    metadata     jsonb NOT NULL DEFAULT '{}',
    -- Strictly rising within a run.
    created_at   timestamptz NOT NULL
);
CREATE INDEX agent_messages_by_run ON agent_messages (run_id, created_at);

CREATE TABLE agent_task_logs (
    id         uuid NOT NULL,
    run_id     uuid NOT NULL REFERENCES agent_runs (id) ON DELETE CASCADE,
    seq        bigint NOT NULL CHECK (seq > 0),
    log_type   text NOT NULL,
    message    text NOT NULL,
    metadata   jsonb NOT NULL DEFAULT '{}',
    -- Strictly rising with seq.
    created_at timestamptz NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (run_id, seq)
);
CREATE INDEX agent_task_logs_by_time ON agent_task_logs (run_id, created_at);

CREATE TABLE agent_artifacts (
    id             uuid PRIMARY KEY,
    run_id         uuid NOT NULL REFERENCES agent_runs (id) ON DELETE CASCADE,
    step_id        uuid REFERENCES agent_steps (id) ON DELETE SET NULL,
    user_id        text,
    filename       text NOT NULL,
    file_path      text NOT NULL,
    file_type      text NOT NULL,
    file_size      bigint NOT NULL,
    content_hash   text NOT NULL,
    storage_bucket text NOT NULL,
    storage_key    text NOT NULL,
    created_at     timestamptz NOT NULL
);
CREATE INDEX agent_artifacts_by_run ON agent_artifacts (run_id, created_at);

CREATE TABLE token_records (
    id              uuid PRIMARY KEY,
    run_id          uuid NOT NULL REFERENCES agent_runs (id) ON DELETE CASCADE,
    idempotency_key text NOT NULL UNIQUE,
    model           text NOT NULL,
    provider        text NOT NULL,
    input_tokens    bigint NOT NULL,
    output_tokens   bigint NOT NULL,
    is_estimated    boolean NOT NULL DEFAULT false,
    created_at      timestamptz NOT NULL
);
CREATE INDEX token_records_by_run ON token_records (run_id);

-- Jobs that are committed and perhaps not pushed to Redis yet; a row goes once its push is acknowledged.
CREATE TABLE agent_outbox (
    job_id     uuid PRIMARY KEY,
    run_id     uuid NOT NULL REFERENCES agent_runs (id) ON DELETE CASCADE,
    job        json NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX agent_outbox_by_time ON agent_outbox (created_at);

CREATE TABLE agent_idempotency (
    user_id      text NOT NULL,
    key          text NOT NULL,
    request_hash text NOT NULL,
    answer       json NOT NULL,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (user_id, key)
);
