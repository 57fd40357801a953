//! What is in the stores: read with plain SQL and plain Redis commands, past the code under test.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Row;

use crate::client::ApiClient;
use crate::resp::{Client, Reply};
use crate::sql::Sql;
use crate::system::System;

/// A row of `agent_runs`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub status: String,
    pub error_code: Option<String>,
    /// `waiting_for.kind`
    pub waits_for: Option<String>,
    pub total_steps: i64,
    pub completed_steps: i64,
    pub failed_steps: i64,
    pub last_seq: i64,
    pub credits: String,
}

/// A row of `agent_task_logs`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub seq: i64,
    pub log_type: String,
    pub metadata: Value,
    pub at_us: i64,
}

impl Event {
    pub fn text(&self, name: &str) -> &str {
        self.metadata[name].as_str().unwrap_or_default()
    }
}

/// A row of `agent_steps`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub id: String,
    pub number: i64,
    pub tool: String,
    pub status: String,
    pub completed_us: Option<i64>,
    /// Output and error as text.
    pub result: String,
    pub artifacts: i64,
    /// Epoch under which a worker stored the result.
    pub settled_epoch: Option<i64>,
}

/// An entry of a run's effect ledger, as the API shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    pub step_id: String,
    pub state: String,
    pub key: String,
}

/// An element of a job list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub job_id: String,
    pub run_id: String,
    pub reason: String,
}

/// All lists at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lists {
    pub high_priority: Vec<Job>,
    pub pending: Vec<Job>,
    pub processing: Vec<Job>,
    pub retry: Vec<Job>,
    pub failed: Vec<Job>,
    /// Job ids with a lease.
    pub lease: Vec<String>,
    /// Job ids with a retry time.
    pub due: Vec<String>,
}

impl Lists {
    /// The lists of jobs that are still to be done, by name.
    pub fn live(&self) -> [(&'static str, &[Job]); 4] {
        [
            ("high_priority", &self.high_priority),
            ("pending", &self.pending),
            ("processing", &self.processing),
            ("retry", &self.retry),
        ]
    }

    /// The elements of this run: list and job id.
    pub fn of_run(&self, run_id: &str) -> Vec<(&'static str, &str)> {
        let mut found = Vec::new();
        for (name, jobs) in self.live() {
            let own = jobs.iter().filter(|job| job.run_id == run_id);
            found.extend(own.map(|job| (name, job.job_id.as_str())));
        }
        found
    }

    /// Read in one transaction.
    pub async fn read(client: &mut Client) -> std::io::Result<Self> {
        let commands: [&[&str]; 7] = [
            &["LRANGE", "jobs:high_priority", "0", "-1"],
            &["LRANGE", "jobs:pending", "0", "-1"],
            &["LRANGE", "jobs:processing", "0", "-1"],
            &["LRANGE", "jobs:retry", "0", "-1"],
            &["LRANGE", "jobs:failed", "0", "-1"],
            &["ZRANGE", "jobs:lease", "0", "-1"],
            &["ZRANGE", "jobs:retry:due", "0", "-1"],
        ];
        let replies = client.transaction(&commands).await?;
        let [high, pending, processing, retry, failed, lease, due] = replies.as_slice() else {
            return Err(std::io::Error::other("seven replies were expected"));
        };
        Ok(Self {
            high_priority: jobs(high),
            pending: jobs(pending),
            processing: jobs(processing),
            retry: jobs(retry),
            failed: jobs(failed),
            lease: lease.texts(),
            due: due.texts(),
        })
    }
}

fn jobs(reply: &Reply) -> Vec<Job> {
    let job = |text: String| {
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        Job {
            job_id: field("job_id"),
            run_id: field("run_id"),
            reason: field("reason"),
        }
    };
    reply.texts().into_iter().map(job).collect()
}

/// The whole final state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    pub runs: BTreeMap<String, Run>,
    /// By run, in order of seq.
    pub events: BTreeMap<String, Vec<Event>>,
    /// By run, in order of step number.
    pub steps: BTreeMap<String, Vec<Step>>,
    pub lists: Lists,
    /// By run, in the order of the API.
    pub ledger: BTreeMap<String, Vec<Effect>>,
    /// Jobs committed and not pushed.
    pub outbox: i64,
    /// Lines of the programs' output that tell of a panic.
    pub panics: Vec<String>,
}

/// Runs whose ledger is looked at; run ids rise with time.
const LEDGERS: usize = 300;

const RUNS: &str = "SELECT id::text, status, error_code, waiting_for->>'kind', total_steps::bigint,
        completed_steps::bigint, failed_steps::bigint, last_seq, trim_scale(total_credits_used)::text,
        (SELECT trim_scale(coalesce(sum(s.credits_used), 0))::text FROM agent_steps s WHERE s.run_id = r.id)
    FROM agent_runs r WHERE origin = 'agent_api'";
const EVENTS: &str =
    "SELECT run_id::text, seq, log_type, metadata, (extract(epoch FROM created_at) * 1000000)::bigint
    FROM agent_task_logs ORDER BY run_id, seq";
const STEPS: &str = "SELECT run_id::text, id::text, step_number::bigint, tool_name, status,
        (extract(epoch FROM completed_at) * 1000000)::bigint,
        coalesce(tool_output::text, '') || coalesce(error_message, ''),
        (SELECT count(*) FROM agent_artifacts a WHERE a.step_id = s.id),
        settled_epoch
    FROM agent_steps s ORDER BY run_id, step_number";

impl Facts {
    /// Reads everything; the stores must be up.
    pub async fn read(system: &System) -> Self {
        let mut sql = Sql::new(&system.database_url);
        let mut facts = Self::default();
        for row in sql.insist(RUNS, &[]).await {
            facts.runs.insert(row.get(0), run(&row));
        }
        for row in sql.insist(EVENTS, &[]).await {
            facts.events.entry(row.get(0)).or_default().push(event(&row));
        }
        for row in sql.insist(STEPS, &[]).await {
            facts.steps.entry(row.get(0)).or_default().push(step(&row));
        }
        let rows = sql.insist("SELECT count(*) FROM agent_outbox", &[]).await;
        facts.outbox = rows[0].get(0);
        let mut client = Client::connect(system.redis_port).await.expect("Redis is up");
        facts.lists = Lists::read(&mut client).await.expect("Redis answers");
        facts.read_ledger(&ApiClient::new(system)).await;
        facts
    }

    /// The newest runs' ledgers, asked for at both APIs in turn.
    async fn read_ledger(&mut self, client: &ApiClient) {
        let newest = self.runs.keys().rev().take(LEDGERS).cloned();
        for (api, run_id) in newest.enumerate().collect::<Vec<_>>() {
            let path = format!("/agent/run/{run_id}/effects");
            let effects = client.get(api, &path).await["effects"].clone();
            let effects = effects.as_array().cloned().unwrap_or_default();
            let effect = |value: &Value| {
                let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
                Effect {
                    step_id: field("step_id"),
                    state: field("state"),
                    key: field("idempotency_key"),
                }
            };
            self.ledger.insert(run_id, effects.iter().map(effect).collect());
        }
    }
}

fn run(row: &Row) -> Run {
    let (credits, spent): (String, String) = (row.get(8), row.get(9));
    Run {
        status: row.get(1),
        error_code: row.get(2),
        waits_for: row.get(3),
        total_steps: row.get(4),
        completed_steps: row.get(5),
        failed_steps: row.get(6),
        last_seq: row.get(7),
        credits: if credits == spent {
            String::new()
        } else {
            format!("{credits} in the run, {spent} in its steps")
        },
    }
}

fn event(row: &Row) -> Event {
    Event {
        seq: row.get(1),
        log_type: row.get(2),
        metadata: row.get(3),
        at_us: row.get(4),
    }
}

fn step(row: &Row) -> Step {
    Step {
        id: row.get(1),
        number: row.get(2),
        tool: row.get(3),
        status: row.get(4),
        completed_us: row.get(5),
        result: row.get(6),
        artifacts: row.get(7),
        settled_epoch: row.get(8),
    }
}

/// Lines that tell of a panic in the output kept below `logs`.
pub fn panics(logs: &std::path::Path) -> Vec<String> {
    let files = std::fs::read_dir(logs).into_iter().flatten().flatten();
    let of = |file: std::fs::DirEntry| {
        let text = std::fs::read_to_string(file.path()).unwrap_or_default();
        let name = file.file_name().to_string_lossy().into_owned();
        let lines = text.lines().filter(|line| line.contains("panicked at"));
        lines.map(|line| format!("{name}: {line}")).collect::<Vec<_>>()
    };
    files.flat_map(of).collect()
}
