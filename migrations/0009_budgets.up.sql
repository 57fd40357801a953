-- What model calls cost, and what is set aside for calls under way against the limits of a day.
ALTER TABLE token_records
    ADD COLUMN user_id          text,
    ADD COLUMN cached_tokens    bigint NOT NULL DEFAULT 0,
    ADD COLUMN reasoning_tokens bigint NOT NULL DEFAULT 0,
    -- Nothing where no price is known.
    ADD COLUMN cost_usd         numeric(14,6);
CREATE INDEX token_records_by_time ON token_records (created_at);

-- The worst case of a run's model call. It counts until the turn is stored, and only while its claim holds the run: whoever
-- loses the run spends nothing more of it.
CREATE TABLE budget_reservations (
    run_id      uuid PRIMARY KEY REFERENCES agent_runs (id) ON DELETE CASCADE,
    epoch       bigint NOT NULL,
    turn        integer NOT NULL,
    user_id     text,
    tokens      bigint NOT NULL,
    cost_micros bigint NOT NULL,
    created_at  timestamptz NOT NULL
);

ALTER TABLE budget_reservations ENABLE ROW LEVEL SECURITY;
ALTER TABLE budget_reservations FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON budget_reservations USING (
    CASE coalesce(current_setting('app.actor', true), '')
        WHEN 'system' THEN true
        WHEN 'user' THEN EXISTS (SELECT FROM public.agent_runs r WHERE r.id = run_id)
        ELSE current_user <> 'agent_app'
    END) WITH CHECK (true);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'agent_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.budget_reservations TO agent_app;
    END IF;
END
$$;
