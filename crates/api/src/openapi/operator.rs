//! Answers for operators, and refusals.

use serde_json::Value;
use utoipa::ToSchema;

/// Answer of `/health`.
#[derive(Debug, ToSchema)]
pub struct HealthAnswer {
    pub status: String,
    pub version: String,
    pub service: String,
}

/// Answer of `/healthz`.
#[derive(Debug, ToSchema)]
pub struct HealthzAnswer {
    pub status: String,
}

/// State of a dependency.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum Check {
    Ok,
    Error,
    NotConfigured,
}

/// States of the dependencies.
#[derive(Debug, ToSchema)]
pub struct Checks {
    pub postgres: Check,
    pub redis: Check,
    pub s3: Check,
    pub model: Check,
}

/// Answer of `/ready` and `/readyz`.
#[derive(Debug, ToSchema)]
pub struct ReadinessAnswer {
    #[schema(inline)]
    pub status: Readiness,
    pub checks: Checks,
    /// `/readyz` only: what the queue looks like.
    pub queue: Option<Value>,
    /// `shutting_down`.
    pub reason: Option<String>,
}

/// Whether requests should be sent here.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum Readiness {
    Ready,
    NotReady,
}

/// Answer of `GET /debug/worker-status`.
#[derive(Debug, ToSchema)]
pub struct WorkerStatus {
    pub worker_heartbeat: Option<String>,
    pub debug_logs: Vec<String>,
    pub queue_stats: QueueStats,
    pub failed_jobs: Vec<FailedJob>,
    pub redis_connected: bool,
    /// Why Redis could not be asked.
    pub error: Option<String>,
}

/// Lengths of the queue's lists.
#[derive(Debug, ToSchema)]
pub struct QueueStats {
    pub pending: i64,
    pub processing: i64,
    pub high_priority: i64,
    pub retry: i64,
    pub failed: i64,
}

/// A dead letter.
#[derive(Debug, ToSchema)]
pub struct FailedJob {
    pub run_id: Option<Value>,
    pub error: Option<String>,
    pub failed_at: Option<Value>,
    pub reason: Option<Value>,
}

/// Files of the pages.
#[derive(Debug, ToSchema)]
pub enum AssetName {
    #[schema(rename = "docs.js")]
    Docs,
    #[schema(rename = "redoc.js")]
    Redoc,
    #[schema(rename = "page.css")]
    Page,
    #[schema(rename = "swagger-ui.css")]
    SwaggerCss,
    #[schema(rename = "swagger-ui-bundle.js")]
    SwaggerBundle,
}

/// A refusal (RFC 9457); `error` repeats `detail`.
#[derive(Debug, ToSchema)]
pub struct Problem {
    #[schema(rename = "type", pattern = "^urn:agent-api:problem:[a-z_]+$")]
    pub kind: String,
    pub title: String,
    #[schema(minimum = 400, maximum = 599)]
    pub status: i32,
    pub detail: String,
    #[schema(inline)]
    pub code: Code,
    pub error: String,
    pub request_id: String,
    /// `validation_error` only: every fault.
    pub errors: Option<Vec<Fault>>,
}

/// A fault of the request's shape.
#[derive(Debug, ToSchema)]
pub struct Fault {
    /// `body`, `query`, `path` or `header`, then the field.
    pub loc: Vec<String>,
    pub msg: String,
    #[schema(rename = "type", inline)]
    pub kind: FaultKind,
}

/// Kinds of faults.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum FaultKind {
    Missing,
    JsonInvalid,
    StringType,
    IntType,
    BoolType,
    ListType,
    ValueError,
}

/// Codes of refusals: a closed list.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum Code {
    MissingAuthorization,
    InvalidAuthorization,
    InvalidApiKey,
    InvalidTokenFormat,
    InvalidToken,
    AuthenticationFailed,
    TokenExpired,
    NoUserId,
    InvalidTicket,
    BadRequest,
    PromptRequired,
    RunIdRequired,
    UnknownAction,
    InvalidTransition,
    InvalidMode,
    InvalidCursor,
    CursorAhead,
    InsufficientCredits,
    Forbidden,
    RunNotFound,
    StepNotFound,
    FileNotFound,
    FilesExpired,
    InvalidPath,
    NotConfigured,
    NotFound,
    MethodNotAllowed,
    IdempotencyConflict,
    EffectUnknown,
    EffectNotUnknown,
    InvalidPolicy,
    InvalidDecision,
    InvalidPlan,
    InterruptNotFound,
    InterruptExpired,
    InterruptCancelled,
    AlreadyDecided,
    HashMismatch,
    InvalidBudget,
    InvalidMcpServers,
    ArtifactNotFound,
    ArtifactReplaced,
    ApprovalRequired,
    PayloadTooLarge,
    ValidationError,
    RateLimited,
    InternalError,
    Unavailable,
}
