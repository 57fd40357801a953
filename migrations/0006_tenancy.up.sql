-- The second lock between users: even a query that forgets its filter sees the rows of one user only.
--
-- Programs act as role `agent_app`, which owns nothing and may not bypass row security. `app.actor` says for whom: `system`
-- (workers, relays, the internal surface) or `user`, and then `app.user_id` says which one. Without either, the role
-- sees nothing. Other roles (owner, operators with psql) see everything unless they ask to act as a user.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'agent_app') THEN
        CREATE ROLE agent_app NOLOGIN NOSUPERUSER NOBYPASSRLS;
    END IF;
EXCEPTION
    -- Another database of this server is being prepared at the same moment.
    WHEN duplicate_object OR unique_violation THEN NULL;
    WHEN insufficient_privilege THEN
        RAISE WARNING 'role agent_app cannot be made: row security applies through app.actor only';
END
$$;

-- Whether the connected role is a member of `agent_app`.
CREATE FUNCTION runtime.may_take_app_role() RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'agent_app') THEN
        RETURN false;
    ELSIF current_setting('server_version_num')::integer >= 160000 THEN
        RETURN pg_has_role(session_user, 'agent_app', 'SET');
    END IF;
    RETURN pg_has_role(session_user, 'agent_app', 'MEMBER');
END
$$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'agent_app') AND NOT runtime.may_take_app_role() THEN
        EXECUTE format('GRANT agent_app TO %I', session_user);
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE WARNING 'role agent_app cannot be granted: row security applies through app.actor only';
END
$$;

-- Called once by every connection of a program. A role that came after this migration has no rights here: nobody takes it.
CREATE FUNCTION runtime.take_app_role() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF runtime.may_take_app_role() AND has_table_privilege('agent_app', 'public.agent_runs', 'INSERT') THEN
        PERFORM set_config('role', 'agent_app', false);
    END IF;
END
$$;

-- Whether the present actor sees what belongs to `owner`.
CREATE FUNCTION runtime.sees(owner text) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE coalesce(current_setting('app.actor', true), '')
               WHEN 'system' THEN true
               WHEN 'user' THEN owner = nullif(current_setting('app.user_id', true), '')
               ELSE current_user <> 'agent_app'
           END
$$;

-- Tables that carry their owner.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['agent_runs', 'agent_idempotency', 'credit_balances', 'credit_transactions', 'api_keys'] LOOP
        EXECUTE format('ALTER TABLE public.%I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE public.%I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY tenant ON public.%I USING (runtime.sees(user_id))', name);
    END LOOP;
END
$$;

-- Tables whose rows belong to a run: who sees the run sees them. Rows may be added by whoever could lock the run, which
-- the same statement may just be making.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['public.agent_run_connectors', 'public.agent_turns', 'public.agent_steps',
        'public.agent_messages', 'public.agent_task_logs', 'public.agent_artifacts', 'public.token_records',
        'public.agent_outbox', 'runtime.run_events', 'runtime.run_frames'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', name);
        EXECUTE format($policy$
            CREATE POLICY tenant ON %s USING (
                CASE coalesce(current_setting('app.actor', true), '')
                    WHEN 'system' THEN true
                    WHEN 'user' THEN EXISTS (SELECT FROM public.agent_runs r WHERE r.id = run_id)
                    ELSE current_user <> 'agent_app'
                END) WITH CHECK (true)$policy$, name);
    END LOOP;
END
$$;

ALTER VIEW runtime.runs SET (security_invoker = true);

DO $$
DECLARE
    name text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'agent_app') THEN
        RETURN;
    END IF;
    GRANT USAGE ON SCHEMA public, runtime TO agent_app;
    FOREACH name IN ARRAY ARRAY['public.agent_runs', 'public.agent_idempotency', 'public.credit_balances',
        'public.credit_transactions', 'public.api_keys', 'public.agent_run_connectors', 'public.agent_turns',
        'public.agent_steps', 'public.agent_messages', 'public.agent_task_logs', 'public.agent_artifacts',
        'public.token_records', 'public.agent_outbox', 'public.signing_keys', 'runtime.run_events', 'runtime.run_frames',
        'runtime.projection_checkpoints', 'runtime.run_summaries', 'runtime.projection_drift', 'runtime.workers',
        'runtime.worker_events'] LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO agent_app', name);
    END LOOP;
    GRANT SELECT ON runtime.schema_migrations, runtime.runs TO agent_app;
END
$$;
