//! What answers consist of ([`super::answers`]). Handlers make it of rows; tests against the running server keep both equal.

use serde_json::Value;
use utoipa::ToSchema;

/// Members that are left out where they do not apply.
pub const OPTIONAL: [(&str, &[&str]); 5] = [
    (
        "ExecuteAnswer",
        &[
            "progress",
            "retry_of",
            "error_message",
            "waiting_for",
            "runs",
            "next_cursor",
        ],
    ),
    (
        "WaitingFor",
        &[
            "since",
            "until",
            "step_id",
            "tool_name",
            "tool_input",
            "epoch",
            "evidence",
            "interrupt_ids",
        ],
    ),
    ("Problem", &["errors"]),
    ("ReadinessAnswer", &["reason", "queue"]),
    ("WorkerStatus", &["error"]),
];

/// A UUID.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = "uuid")]
pub struct Id(pub String);

/// RFC 3339, UTC, with `Z` and microseconds.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = "date-time", pattern = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")]
pub struct Time(pub String);

/// Where a run stands.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum RunStatus {
    Created,
    Queued,
    Planning,
    Executing,
    WaitingUser,
    Paused,
    Completed,
    Failed,
    Cancelled,
    Timeout,
}

/// Where a step stands.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum StepStatus {
    Pending,
    Running,
    Completed,
    Failed,
    Skipped,
    Cancelled,
}

/// Kind of an event.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum LogType {
    Info,
    Success,
    Warning,
    Error,
    ToolSuccess,
    ToolError,
    PhaseAdvance,
    StateTransition,
    UserInputRequired,
    Complete,
}

/// Why a run does not move.
#[derive(Debug, ToSchema)]
pub struct WaitingFor {
    #[schema(inline)]
    pub kind: WaitingKind,
    pub since: Option<Time>,
    /// When it goes on by itself.
    pub until: Option<Time>,
    pub detail: String,
    /// `effect_unknown`: the step in question.
    pub step_id: Option<Id>,
    pub tool_name: Option<String>,
    pub tool_input: Option<Value>,
    /// `effect_unknown`: the question's number.
    pub epoch: Option<i64>,
    /// `user`, of a run that was paused because it repeated itself: what was found.
    pub evidence: Option<Value>,
    /// `approval`, `user`: what a person is asked.
    pub interrupt_ids: Option<Vec<Id>>,
}

/// What a run can wait for.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum WaitingKind {
    Queue,
    WorkerSlot,
    Retry,
    ModelBackoff,
    User,
    Approval,
    EffectUnknown,
    Budget,
    SandboxCapacity,
}

/// How far a run is.
#[derive(Debug, ToSchema)]
pub struct Progress {
    #[schema(minimum = 0, maximum = 100)]
    pub percentage: f64,
    /// From 1; 0 before a plan.
    #[schema(minimum = 0)]
    pub current_phase: i32,
    #[schema(minimum = 0)]
    pub total_phases: i32,
    pub status: RunStatus,
}

/// A run in a list.
#[derive(Debug, ToSchema)]
pub struct ListedRun {
    pub id: Id,
    pub status: RunStatus,
    pub prompt: String,
    pub created_at: Time,
    pub completed_at: Option<Time>,
    pub waiting_for: Option<WaitingFor>,
}

/// A run.
#[derive(Debug, ToSchema)]
pub struct Run {
    pub id: Id,
    pub user_id: Option<String>,
    pub prompt: String,
    pub status: RunStatus,
    pub plan: Option<Value>,
    pub plan_version: i32,
    pub current_phase: i32,
    pub total_steps: i32,
    pub completed_steps: i32,
    pub failed_steps: i32,
    pub total_tokens_used: i64,
    pub total_credits_used: f64,
    #[schema(minimum = 0, maximum = 9)]
    pub priority: i32,
    pub retry_of: Option<Id>,
    pub external_id: Option<String>,
    pub attempt: i32,
    pub retry_count: i32,
    pub max_retries: i32,
    pub next_retry_at: Option<Time>,
    pub error_message: Option<String>,
    pub error_code: Option<String>,
    #[schema(value_type = Object)]
    pub metadata: Value,
    pub state_version: i64,
    /// Seq of the newest event.
    pub last_seq: i64,
    pub created_at: Time,
    pub queued_at: Option<Time>,
    pub started_at: Option<Time>,
    pub completed_at: Option<Time>,
    pub paused_at: Option<Time>,
    pub resumed_at: Option<Time>,
    pub deadline_at: Option<Time>,
    pub waiting_for: Option<WaitingFor>,
}

/// A tool call.
#[derive(Debug, ToSchema)]
pub struct Step {
    pub id: Id,
    pub run_id: Id,
    #[schema(minimum = 1)]
    pub step_number: i32,
    pub phase_number: i32,
    pub tool_name: String,
    pub tool_input: Option<Value>,
    pub tool_output: Option<Value>,
    pub status: StepStatus,
    pub credits_used: f64,
    pub retry_count: i32,
    pub idempotency_key: String,
    pub error_message: Option<String>,
    #[schema(value_type = Object)]
    pub metadata: Value,
    pub created_at: Time,
    pub started_at: Option<Time>,
    pub completed_at: Option<Time>,
    pub duration_ms: Option<i64>,
}

/// A message of the conversation.
#[derive(Debug, ToSchema)]
pub struct Message {
    pub id: Id,
    pub run_id: Id,
    pub step_id: Option<Id>,
    #[schema(inline)]
    pub role: Role,
    pub content: String,
    pub tool_call_id: Option<String>,
    pub tool_name: Option<String>,
    #[schema(value_type = Object)]
    pub metadata: Value,
    pub created_at: Time,
}

/// Who said it.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum Role {
    User,
    Assistant,
    System,
    Tool,
}

/// A file that a run made.
#[derive(Debug, ToSchema)]
pub struct Artifact {
    pub id: Id,
    pub run_id: Id,
    pub step_id: Option<Id>,
    pub user_id: Option<String>,
    pub filename: String,
    pub file_path: String,
    pub file_type: String,
    pub file_size: i64,
    pub content_hash: String,
    pub storage_bucket: String,
    pub storage_key: String,
    pub created_at: Time,
}

/// A stored event.
#[derive(Debug, ToSchema)]
pub struct Log {
    pub id: Id,
    pub run_id: Id,
    #[schema(minimum = 1)]
    pub seq: i64,
    pub log_type: LogType,
    pub message: String,
    #[schema(value_type = Object)]
    pub metadata: Value,
    pub created_at: Time,
}
