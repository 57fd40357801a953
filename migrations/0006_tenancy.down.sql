-- Role agent_app stays: other databases of the server may use it.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['public.agent_runs', 'public.agent_idempotency', 'public.credit_balances',
        'public.credit_transactions', 'public.api_keys', 'public.agent_run_connectors', 'public.agent_turns',
        'public.agent_steps', 'public.agent_messages', 'public.agent_task_logs', 'public.agent_artifacts',
        'public.token_records', 'public.agent_outbox', 'runtime.run_events', 'runtime.run_frames'] LOOP
        EXECUTE format('DROP POLICY tenant ON %s', name);
        EXECUTE format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', name);
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'agent_app') THEN
        REVOKE ALL ON ALL TABLES IN SCHEMA runtime FROM agent_app;
        FOREACH name IN ARRAY ARRAY['agent_runs', 'agent_idempotency', 'credit_balances', 'credit_transactions', 'api_keys',
            'agent_run_connectors', 'agent_turns', 'agent_steps', 'agent_messages', 'agent_task_logs', 'agent_artifacts',
            'token_records', 'agent_outbox', 'signing_keys'] LOOP
            EXECUTE format('REVOKE ALL ON public.%I FROM agent_app', name);
        END LOOP;
        REVOKE USAGE ON SCHEMA public, runtime FROM agent_app;
    END IF;
END
$$;
ALTER VIEW runtime.runs RESET (security_invoker);
DROP FUNCTION runtime.sees(text);
DROP FUNCTION runtime.take_app_role();
DROP FUNCTION runtime.may_take_app_role();
