DROP INDEX agent_runs_retries, agent_runs_ended;
DROP TABLE agent_workspaces;
