//! The first commit of a run: its row, prompt, connectors and first events, in one transaction.

use super::batch::{Batch, Context, to_micros};
use super::row::{Counters, LeaseEnd, RunRow, Times};
use super::write;
use crate::db::tx::{Param, Statement, params};
use domain::budget::Budget;
use domain::change::Change;
use domain::event::{Event, NewEvent};
use domain::ids::{JobId, MessageId, RunId, UserId};
use domain::job::Job;
use domain::run::{Origin, RunState};
use domain::status::RunStatus;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::HashMap;

const INSERT_CONNECTORS: &str = "INSERT INTO agent_run_connectors (run_id, connector_id, position)
    SELECT $1, connector_id, min(position)::int FROM unnest($2::text[]) WITH ORDINALITY AS t(connector_id, position)
     GROUP BY connector_id";

/// A run to be made by `POST /agent/execute`.
#[derive(Debug, Clone)]
pub struct NewRun {
    pub user_id: UserId,
    /// Not blank.
    pub prompt: String,
    /// Duplicates are stored once.
    pub connector_ids: Vec<String>,
    /// Stored as `metadata.project_id`.
    pub project_id: Option<String>,
    /// 0 to 9.
    pub priority: u8,
    /// Queue it in the same transaction.
    pub auto_start: bool,
    pub retry_of: Option<RunId>,
    /// Begin with the files of the run that is repeated. Stored as `metadata.copy_workspace`.
    pub copy_workspace: bool,
    /// What it may do without asking.
    pub rules: RunRules,
    /// W3C trace context of the request.
    pub traceparent: String,
    /// Attempts beyond the first.
    pub max_retries: u32,
}

/// What a run was told about asking; stored in its metadata.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunRules {
    /// As sent; already understood by [`domain::policy::Policy::parse`]. Stored as `metadata.policy`.
    pub policy: Option<Value>,
    /// Wait for a person after the plan is made. Stored as `metadata.plan_only`.
    pub plan_only: bool,
}

/// Everything the commit of a new run writes.
pub(crate) struct Creation {
    pub(crate) statements: Vec<Statement>,
    pub(crate) run: RunRow,
    pub(crate) events: Vec<Event>,
    pub(crate) job: Option<Job>,
}

/// What a new run gets besides what its user asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extras<'a> {
    /// It goes on without credits.
    pub(crate) exempt: bool,
    pub(crate) budget: Budget,
    /// None: those of its worker's setting.
    pub(crate) mcp_servers: Option<&'a [String]>,
}

pub(crate) fn platform_run(new: &NewRun, context: Context<'_>, extras: Extras<'_>) -> Creation {
    let run_id = RunId(context.ids.uuid());
    let created_at = to_micros(context.now);
    let state = fresh_state(run_id, Origin::AgentApi, RunStatus::Created);
    let state = RunState {
        user_id: Some(new.user_id.clone()),
        priority: new.priority,
        max_retries: new.max_retries,
        ..state
    };
    let mut run = fresh_row(state, created_at);
    run.traceparent.clone_from(&new.traceparent);
    let mut batch = Batch::new(context, run, HashMap::new());
    batch.push(NewEvent::created());
    let message_id = MessageId(batch.context.ids.uuid());
    let said_at = batch.push(NewEvent::message(message_id, "user", &new.prompt));
    let job = new.auto_start.then(|| queued(&mut batch));
    let mut fresh = fresh_params(new, extras);
    fresh.extend(params![message_id.0, said_at, job.as_ref().map(write::job_json)]);
    let (statement, run, events) = batch.finish_new(fresh);
    let mut statements = vec![statement];
    if !new.connector_ids.is_empty() {
        let params = params![run_id.0, new.connector_ids.clone()];
        statements.push(Statement::new(INSERT_CONNECTORS, params));
    }
    Creation {
        statements,
        run,
        events,
        job,
    }
}

/// Queues the run in its first commit; gives its job.
fn queued(batch: &mut Batch<'_>) -> Job {
    batch.apply(Change::Status {
        to: RunStatus::Queued,
        error: None,
    });
    let job_id = JobId(batch.context.ids.uuid());
    batch.run.state.job_id = Some(job_id);
    batch.run.job(job_id)
}

/// Member of a run's metadata: it goes on without credits.
const CREDITS_EXEMPT: &str = "credits_exempt";

/// Member of a run's metadata: its caps.
const BUDGET: &str = "budget";

/// Member of a run's metadata: the MCP servers it may use.
const MCP_SERVERS: &str = "mcp_servers";

/// Member of a run's metadata: its worker is to bring it the files of the run it repeats.
const COPY_WORKSPACE: &str = "copy_workspace";

/// What never changes of a run.
fn fresh_params(new: &NewRun, extras: Extras<'_>) -> Vec<Param> {
    let mut metadata = match &new.project_id {
        Some(project) => json!({"project_id": project}),
        None => Value::Object(serde_json::Map::new()),
    };
    if new.copy_workspace {
        metadata[COPY_WORKSPACE] = Value::Bool(true);
    }
    if let Some(policy) = &new.rules.policy {
        metadata["policy"] = policy.clone();
    }
    if new.rules.plan_only {
        metadata["plan_only"] = Value::Bool(true);
    }
    if !extras.budget.is_empty() {
        metadata[BUDGET] = extras.budget.to_value();
    }
    if let Some(servers) = extras.mcp_servers {
        metadata[MCP_SERVERS] = json!(servers);
    }
    if extras.exempt {
        metadata[CREDITS_EXEMPT] = Value::Bool(true);
    }
    params![
        new.user_id.0.clone(),
        new.prompt.clone(),
        i32::from(new.priority),
        new.retry_of.map(|run| run.0),
        new.max_retries as i32,
        metadata,
    ]
}

pub(crate) fn fresh_state(id: RunId, origin: Origin, status: RunStatus) -> RunState {
    RunState {
        id,
        origin,
        user_id: None,
        status,
        current_phase: 0,
        total_phases: 0,
        last_seq: 0,
        epoch: 0,
        lease: None,
        job_id: None,
        priority: 0,
        retry_count: 0,
        max_retries: 0,
        crash_count: 0,
        cancel_requested: false,
        unknown_step: None,
        interrupts: vec![],
        last_error: None,
    }
}

pub(crate) fn fresh_row(state: RunState, created_at: Timestamp) -> RunRow {
    RunRow {
        state,
        times: Times::default(),
        counters: Counters {
            state_version: 1,
            ..Counters::default()
        },
        traceparent: String::new(),
        created_at,
        last_event_at: created_at,
        head_hash: None,
        error_message: None,
        error_code: None,
        waiting_for: None,
        lease_end: LeaseEnd::Keep,
    }
}
