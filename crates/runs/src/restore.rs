//! Everything a worker needs to go on with a run: after a claim, a take-over or a resume alike.

use crate::authority::create::RunRules;
use crate::authority::interrupts::{INTERRUPTS, known_interrupt};
use crate::authority::row::{RunRow, column};
use crate::budget::{self, Funds};
use crate::db::tx::{Statement, params};
use crate::store::StoreError;
use domain::action::{Action, Turn};
use domain::ids::{MessageId, RunId, StepId, UserId};
use domain::interrupt::KnownInterrupt;
use domain::plan::Plan;
use domain::run::{RunState, StepStatus};
use domain::tool::ToolResult;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

const TASK: &str = "SELECT r.prompt, r.plan, r.retry_of, r.metadata -> 'mcp_servers' AS mcp_servers,
        r.metadata @> '{\"copy_workspace\": true}' AND NOT r.metadata ? 'workspace_copied' AS wants_files,
        coalesce(s.metadata ->> 'workspace' = 'expired', false) AS files_expired,
        r.metadata -> 'policy' AS policy, r.metadata @> '{\"plan_only\": true}' AS plan_only
    FROM agent_runs r LEFT JOIN agent_runs s ON s.id = r.retry_of WHERE r.id = $1";
const CONNECTORS: &str =
    "SELECT connector_id FROM agent_run_connectors WHERE run_id = $1 ORDER BY position, connector_id";
const TURNS: &str = "SELECT turn, raw, actions, fault, model, provider FROM agent_turns
    WHERE run_id = $1 ORDER BY turn";
const STEPS: &str = "SELECT id, step_number, phase_number, turn, action, tool_name, tool_input, tool_output,
        effect, status, retry_count, metadata @> '{\"refused\": true}' AS refused
    FROM agent_steps WHERE run_id = $1 ORDER BY step_number";
const MESSAGES: &str = "SELECT id, role, content, step_id, created_at FROM agent_messages
    WHERE run_id = $1 ORDER BY created_at, id";

/// A stored reply of the model; number 0 is the planner's.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTurn {
    pub turn: Turn,
    pub model: String,
    pub provider: String,
}

/// A step as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct RestoredStep {
    pub id: StepId,
    pub step_number: u32,
    pub phase_number: u32,
    pub turn: u32,
    pub action: u32,
    pub tool_name: String,
    pub tool_input: Value,
    /// `pure`, `idempotent` or `at_most_once`.
    pub effect: String,
    pub status: StepStatus,
    /// Only of settled steps.
    pub result: Option<ToolResult>,
    /// How often it was started again.
    pub retry_count: u32,
}

/// A stored message, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredMessage {
    pub id: MessageId,
    pub role: String,
    pub content: String,
    pub step_id: Option<StepId>,
    pub created_at: Timestamp,
}

/// The files a retry is still to be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WantedFiles {
    /// The run it repeats; nothing when that is not stored any more.
    pub of: Option<RunId>,
    /// They were deleted by retention.
    pub expired: bool,
}

/// A run's whole stored state, as of one moment.
#[derive(Debug, Clone)]
pub struct RunSnapshot {
    pub run: RunState,
    pub prompt: String,
    /// Empty only for a run without an owner.
    pub user_id: UserId,
    pub connector_ids: Vec<String>,
    /// The MCP servers it asked for; none when it did not say.
    pub mcp_servers: Option<Vec<String>>,
    pub wanted_files: Option<WantedFiles>,
    /// Nothing while the run has no budget.
    pub funds: Option<Funds>,
    pub rules: RunRules,
    /// Everything it asked a person, in order.
    pub interrupts: Vec<KnownInterrupt>,
    pub plan: Option<Plan>,
    /// In order; a turn 0 is the planner's reply.
    pub turns: Vec<StoredTurn>,
    pub steps: Vec<RestoredStep>,
    pub messages: Vec<RestoredMessage>,
    pub total_tokens_used: i64,
    pub total_credits_used: f64,
    /// First planning.
    pub started_at: Option<Timestamp>,
    pub deadline_at: Option<Timestamp>,
    pub traceparent: String,
}

/// The reads behind a run's row, for [`snapshot`].
pub(crate) fn rest_of(run_id: RunId, now: Timestamp) -> Vec<Statement> {
    [TASK, CONNECTORS, TURNS, STEPS, MESSAGES, INTERRUPTS]
        .map(|sql| Statement::new(sql, params![run_id.0]))
        .into_iter()
        .chain([budget::spent(run_id, now, budget::Of::Capped)])
        .collect()
}

/// A run's state of its row and the answers to [`rest_of`], all of one moment.
pub(crate) fn snapshot(run: RunRow, rest: &[Vec<Row>]) -> Result<RunSnapshot, StoreError> {
    let [task, connectors, turns, steps, messages, interrupts, spent] = rest else {
        return Err(StoreError::row("seven answers expected"));
    };
    let task = task.first().ok_or_else(|| StoreError::row("run vanished"))?;
    let plan: Option<Value> = column(task, "plan")?;
    Ok(RunSnapshot {
        prompt: column(task, "prompt")?,
        user_id: run.state.user_id.clone().unwrap_or(UserId(String::new())),
        connector_ids: connectors
            .iter()
            .map(|row| column(row, "connector_id"))
            .collect::<Result<_, _>>()?,
        plan: plan.map(parsed).transpose()?,
        turns: turns.iter().map(turn).collect::<Result<_, _>>()?,
        steps: steps.iter().map(step).collect::<Result<_, _>>()?,
        messages: messages.iter().map(message).collect::<Result<_, _>>()?,
        mcp_servers: stored_servers(task)?,
        wanted_files: wanted_files(task)?,
        funds: spent.first().map(Funds::read).transpose()?,
        rules: RunRules {
            policy: column(task, "policy")?,
            plan_only: column(task, "plan_only")?,
        },
        interrupts: interrupts.iter().map(known_interrupt).collect::<Result<_, _>>()?,
        total_tokens_used: run.counters.tokens,
        total_credits_used: run.counters.credits,
        started_at: run.times.started_at,
        deadline_at: run.times.deadline_at,
        traceparent: run.traceparent,
        run: run.state,
    })
}

/// The MCP servers that a run asked for.
pub(crate) fn stored_servers(row: &Row) -> Result<Option<Vec<String>>, StoreError> {
    column::<Option<Value>>(row, "mcp_servers")?
        .map(parsed)
        .transpose()
}

fn wanted_files(task: &Row) -> Result<Option<WantedFiles>, StoreError> {
    if !column::<bool>(task, "wants_files")? {
        return Ok(None);
    }
    Ok(Some(WantedFiles {
        of: column::<Option<Uuid>>(task, "retry_of")?.map(RunId),
        expired: column(task, "files_expired")?,
    }))
}

fn parsed<T: DeserializeOwned>(value: Value) -> Result<T, StoreError> {
    serde_json::from_value(value).map_err(|fault| StoreError::row(fault.to_string()))
}

fn number(row: &Row, name: &str) -> Result<u32, StoreError> {
    let value: i32 = column(row, name)?;
    u32::try_from(value).map_err(|_| StoreError::row(format!("{name} is negative")))
}

fn turn(row: &Row) -> Result<StoredTurn, StoreError> {
    let actions: Vec<Action> = parsed(column(row, "actions")?)?;
    let turn = Turn {
        number: number(row, "turn")?,
        actions,
        raw: column(row, "raw")?,
        fault: column(row, "fault")?,
    };
    Ok(StoredTurn {
        turn,
        model: column(row, "model")?,
        provider: column(row, "provider")?,
    })
}

fn step(row: &Row) -> Result<RestoredStep, StoreError> {
    let status: &str = column(row, "status")?;
    let result: Option<Value> = column(row, "tool_output")?;
    let mut result: Option<ToolResult> = result.map(parsed).transpose()?;
    if let Some(result) = &mut result {
        result.refused = column::<Option<bool>>(row, "refused")?.unwrap_or(false);
    }
    Ok(RestoredStep {
        id: StepId(column(row, "id")?),
        step_number: number(row, "step_number")?,
        phase_number: number(row, "phase_number")?,
        turn: number(row, "turn")?,
        action: number(row, "action")?,
        tool_name: column(row, "tool_name")?,
        tool_input: column::<Option<Value>>(row, "tool_input")?.unwrap_or(Value::Null),
        effect: column(row, "effect")?,
        status: StepStatus::parse(status).ok_or_else(|| StoreError::row("unknown step status"))?,
        result,
        retry_count: number(row, "retry_count")?,
    })
}

fn message(row: &Row) -> Result<RestoredMessage, StoreError> {
    Ok(RestoredMessage {
        id: MessageId(column(row, "id")?),
        role: column(row, "role")?,
        content: column(row, "content")?,
        step_id: column::<Option<Uuid>>(row, "step_id")?.map(StepId),
        created_at: column(row, "created_at")?,
    })
}
