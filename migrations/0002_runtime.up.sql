-- The second surface's view of the same runs (schema runtime; the migration runner makes the schema).

CREATE TABLE runtime.run_events (
    run_id          uuid NOT NULL REFERENCES public.agent_runs (id),
    seq             bigint NOT NULL CHECK (seq > 0),
    event_type      text NOT NULL,
    payload         json NOT NULL,
    idempotency_key text,
    recorded_at     timestamptz NOT NULL,
    prev_hash       text,
    event_hash      text NOT NULL,
    PRIMARY KEY (run_id, seq),
    UNIQUE (run_id, idempotency_key)
);

CREATE FUNCTION runtime.refuse_event_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'run_events is append-only';
END
$$;
CREATE TRIGGER run_events_append_only BEFORE UPDATE OR DELETE ON runtime.run_events
    FOR EACH ROW EXECUTE FUNCTION runtime.refuse_event_change();
CREATE TRIGGER run_events_no_truncate BEFORE TRUNCATE ON runtime.run_events
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.refuse_event_change();

CREATE TABLE runtime.projection_checkpoints (
    topic           text PRIMARY KEY,
    last_seq        bigint NOT NULL,
    last_event_type text NOT NULL,
    updated_at      timestamptz NOT NULL
) WITH (fillfactor = 80);

CREATE TABLE runtime.run_summaries (
    run_id          uuid PRIMARY KEY,
    status          text NOT NULL,
    last_seq        bigint NOT NULL,
    event_count     bigint NOT NULL,
    projection_hash text NOT NULL,
    updated_at      timestamptz NOT NULL
) WITH (fillfactor = 80);

CREATE TABLE runtime.projection_drift (
    topic             text PRIMARY KEY,
    expected_next_seq bigint NOT NULL,
    last_seen_seq     bigint NOT NULL,
    incoming_seq      bigint NOT NULL,
    reason            text NOT NULL,
    detected_at       timestamptz NOT NULL
);

CREATE TABLE runtime.workers (
    worker_id         text PRIMARY KEY,
    owner_user_id     bigint,
    owner_guest_scope text,
    workspace_ref     text,
    codex_home_ref    text,
    adapter           text NOT NULL,
    status            text NOT NULL CHECK (status IN ('starting', 'running', 'stopping', 'stopped', 'failed')),
    latest_seq        bigint NOT NULL DEFAULT 0,
    metadata          json NOT NULL,
    started_at        timestamptz NOT NULL,
    stopped_at        timestamptz,
    last_heartbeat_at timestamptz,
    updated_at        timestamptz NOT NULL,
    CHECK ((owner_user_id IS NULL) <> (owner_guest_scope IS NULL))
);

CREATE TABLE runtime.worker_events (
    worker_id   text NOT NULL REFERENCES runtime.workers (worker_id),
    seq         bigint NOT NULL CHECK (seq > 0),
    event_type  text NOT NULL,
    payload     json NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (worker_id, seq)
);

CREATE TABLE runtime.run_frames (
    run_id      uuid NOT NULL REFERENCES public.agent_runs (id),
    frame_id    text NOT NULL,
    type        text NOT NULL,
    payload     json NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (run_id, frame_id)
);

CREATE VIEW runtime.runs AS
SELECT id AS run_id,
       CASE
           WHEN status = 'completed' THEN 'succeeded'
           WHEN status IN ('failed', 'timeout') THEN 'failed'
           WHEN status = 'cancelled' THEN 'canceled'
           WHEN cancel_requested_at IS NOT NULL THEN 'canceling'
           WHEN status = 'created' THEN 'created'
           ELSE 'running'
       END AS status,
       worker_id,
       thread_id,
       last_seq AS latest_seq,
       created_at,
       last_event_at AS updated_at
  FROM public.agent_runs;
