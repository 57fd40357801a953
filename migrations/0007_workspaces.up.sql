-- Life of a run's files in the object store. A row is made once the run has ended and its files were counted; what it says of
-- the files is true until `expired_at`. A sweep that removes something holds the row meanwhile, so that others leave it alone.
CREATE TABLE agent_workspaces (
    run_id             uuid PRIMARY KEY REFERENCES agent_runs (id) ON DELETE CASCADE,
    files              bigint NOT NULL,
    bytes              bigint NOT NULL,
    measured_at        timestamptz NOT NULL,
    -- What is ours besides the files (packs, outputs of tools) is gone.
    scratch_cleared_at timestamptz,
    -- From here on nothing may be read: removal has begun.
    expired_at         timestamptz,
    -- Removal has ended.
    cleared_at         timestamptz,
    held_until         timestamptz
);
CREATE INDEX agent_workspaces_kept ON agent_workspaces (run_id) WHERE expired_at IS NULL AND files > 0;
CREATE INDEX agent_workspaces_scratch ON agent_workspaces (run_id) WHERE scratch_cleared_at IS NULL;
CREATE INDEX agent_workspaces_interrupted ON agent_workspaces (run_id)
    WHERE expired_at IS NOT NULL AND cleared_at IS NULL;

-- Ended runs, oldest first, and the runs that repeat one.
CREATE INDEX agent_runs_ended ON agent_runs (completed_at, id) WHERE completed_at IS NOT NULL AND origin = 'agent_api';
CREATE INDEX agent_runs_retries ON agent_runs (retry_of) WHERE retry_of IS NOT NULL;

ALTER TABLE agent_workspaces ENABLE ROW LEVEL SECURITY;
ALTER TABLE agent_workspaces FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON agent_workspaces USING (
    CASE coalesce(current_setting('app.actor', true), '')
        WHEN 'system' THEN true
        WHEN 'user' THEN EXISTS (SELECT FROM public.agent_runs r WHERE r.id = run_id)
        ELSE current_user <> 'agent_app'
    END) WITH CHECK (true);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'agent_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON public.agent_workspaces TO agent_app;
    END IF;
END
$$;
