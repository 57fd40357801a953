//! Answers of the routes. Handlers make them of rows; tests against the running server keep both equal.

use super::schema::{
    Artifact, Id, ListedRun, Log, Message, Progress, Run, RunStatus, Step, StepStatus, Time, WaitingFor,
};
use serde_json::Value;
use utoipa::ToSchema;

/// Answer of `POST /agent/execute`.
#[derive(Debug, ToSchema)]
pub struct ExecuteAnswer {
    /// `null` for `list`.
    pub run_id: Option<Id>,
    /// Status of the run; `ok` for `list`.
    pub status: String,
    pub message: String,
    pub plan: Option<Value>,
    /// `status` only.
    pub progress: Option<Progress>,
    /// `status` only.
    pub retry_of: Option<Id>,
    /// `status` only.
    pub error_message: Option<String>,
    /// `status` only.
    pub waiting_for: Option<WaitingFor>,
    /// `list` only.
    pub runs: Option<Vec<ListedRun>>,
    /// `list` only: set when there are older runs.
    pub next_cursor: Option<String>,
}

/// Answer of `GET /agent/run/{run_id}`.
#[derive(Debug, ToSchema)]
pub struct RunAnswer {
    pub run: Run,
    pub progress: Progress,
}

/// Answer of `POST /agent/status`; lists not asked for are `null`.
#[derive(Debug, ToSchema)]
pub struct StatusAnswer {
    pub run: Run,
    pub progress: Progress,
    /// Oldest first.
    pub steps: Option<Vec<Step>>,
    /// Oldest first.
    pub messages: Option<Vec<Message>>,
    /// Newest first.
    pub artifacts: Option<Vec<Artifact>>,
    /// Newest first.
    pub logs: Option<Vec<Log>>,
}

/// A page of `GET /agent/logs`, oldest first.
#[derive(Debug, ToSchema)]
pub struct LogsPage {
    pub logs: Vec<Log>,
    pub has_more: bool,
    /// `created_at` of the last row when there are more: the next page's `since`.
    pub next_cursor: Option<Time>,
}

/// `mode` of `GET /agent/logs`.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum LogsMode {
    Polling,
    Stream,
    Streaming,
}

/// A page of `GET …/events`.
#[derive(Debug, ToSchema)]
pub struct EventsPage {
    pub run: RunBrief,
    pub steps: Vec<Step>,
    pub messages: Vec<Message>,
    pub events: Vec<NamedEvent>,
    pub last_seq: i64,
}

/// The run of an [`EventsPage`].
#[derive(Debug, ToSchema)]
pub struct RunBrief {
    pub id: Id,
    pub status: RunStatus,
    pub current_phase: i32,
    pub plan: Option<Value>,
    pub error_message: Option<String>,
}

/// A stored event in the named form.
#[derive(Debug, ToSchema)]
pub struct NamedEvent {
    pub seq: i64,
    pub event: String,
    #[schema(value_type = Object)]
    pub data: Value,
}

/// An entry of the effect ledger.
#[derive(Debug, ToSchema)]
pub struct Effect {
    pub step_id: Id,
    pub step_number: i32,
    pub tool_name: String,
    pub tool_input: Option<Value>,
    /// `pure`, `idempotent` or `at_most_once`.
    pub effect: String,
    pub status: StepStatus,
    /// `pending`, `claimed`, `unknown` or `settled`.
    pub state: String,
    pub idempotency_key: String,
    pub tries: i32,
    pub claimed_epoch: Option<i64>,
    pub settled_epoch: Option<i64>,
    pub error_message: Option<String>,
    pub claimed_at: Option<Time>,
    pub settled_at: Option<Time>,
}

/// The effect ledger of a run.
#[derive(Debug, ToSchema)]
pub struct EffectsAnswer {
    pub run_id: Id,
    pub effects: Vec<Effect>,
}

/// Answer of `POST …/effects/{step_id}`.
#[derive(Debug, ToSchema)]
pub struct SettledAnswer {
    pub run_id: Id,
    pub step_id: Id,
    pub decision: String,
    pub status: RunStatus,
    pub message: String,
}

/// Amounts by what they are of.
#[derive(Debug, ToSchema)]
pub struct Caps {
    #[schema(minimum = 0)]
    pub tokens: Option<i64>,
    #[schema(minimum = 0)]
    pub cost_usd: Option<f64>,
    #[schema(minimum = 0)]
    pub steps: Option<i64>,
    #[schema(minimum = 0)]
    pub wall_seconds: Option<f64>,
    #[schema(minimum = 0)]
    pub sandbox_seconds: Option<f64>,
}

/// Answer of `GET` and `POST …/budget`.
#[derive(Debug, ToSchema)]
pub struct BudgetAnswer {
    pub success: bool,
    pub run_id: Id,
    /// `null`: no cap.
    pub budget: Caps,
    pub spent: Caps,
    /// Every model call so far has a price; otherwise `spent.cost_usd` is too low.
    pub cost_known: bool,
    pub run_status: RunStatus,
}

/// Answer of `POST …/ticket`.
#[derive(Debug, ToSchema)]
pub struct TicketAnswer {
    #[schema(pattern = r"^tk_")]
    pub ticket: String,
    pub run_id: Id,
    /// Seconds.
    #[schema(minimum = 0)]
    pub expires_in: i64,
}

/// Answer of `POST …/thinking`.
#[derive(Debug, ToSchema)]
pub struct ThinkingAnswer {
    pub success: bool,
}
