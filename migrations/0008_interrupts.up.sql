-- What runs ask a person: tool calls to approve, plans to approve, questions to answer. An open one holds no worker; it is bound to
-- the hash of the exact call and is decided once.
CREATE TABLE agent_interrupts (
    id              uuid PRIMARY KEY,
    run_id          uuid NOT NULL REFERENCES agent_runs (id) ON DELETE CASCADE,
    kind            text NOT NULL CHECK (kind IN ('tool', 'plan', 'question')),
    turn            integer NOT NULL,
    action          integer NOT NULL,
    -- The step the call will be; there is none while it is not approved.
    step_id         uuid,
    tool_name       text,
    tool_input      json,
    hash            text,
    labels          json NOT NULL,
    message         text NOT NULL,
    reason          text NOT NULL,
    response_schema json NOT NULL,
    status          text NOT NULL CHECK (status IN ('open', 'resolved', 'expired', 'cancelled')),
    decision        text,
    response        json,
    decided_by      text,
    created_at      timestamptz NOT NULL,
    expires_at      timestamptz,
    decided_at      timestamptz
);
CREATE INDEX agent_interrupts_run ON agent_interrupts (run_id, created_at, id);
CREATE INDEX agent_interrupts_open ON agent_interrupts (run_id) WHERE status = 'open';
CREATE INDEX agent_interrupts_due ON agent_interrupts (expires_at) WHERE status = 'open';

ALTER TABLE agent_interrupts ENABLE ROW LEVEL SECURITY;
ALTER TABLE agent_interrupts FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON agent_interrupts USING (
    CASE coalesce(current_setting('app.actor', true), '')
        WHEN 'system' THEN true
        WHEN 'user' THEN EXISTS (SELECT FROM public.agent_runs r WHERE r.id = run_id)
        ELSE current_user <> 'agent_app'
    END) WITH CHECK (true);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'agent_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.agent_interrupts TO agent_app;
    END IF;
END
$$;
