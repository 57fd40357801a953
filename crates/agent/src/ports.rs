//! What the agent needs from outside, as traits with at least two real implementations each.

use crate::tools::{Call, ToolError};
use bytes::Bytes;
use domain::action::Usage;
use domain::change::Change;
use domain::ids::{RunId, StepId, UserId};
use domain::tool::{ArtifactRef, FileChange};
use domain::{Effect, RunStatus, ToolResult};
use serde_json::Value;
use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub use domain::files::{FileInfo, WorkspaceError, Written};

/// What a model call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Make a plan; the number of bad plans before (0 to 2).
    Plan { repairs: u32 },
    /// Decide on the next actions; turns count from 1.
    Turn { number: u32 },
}

/// A model call, free of any provider's wire form.
#[derive(Debug, Clone)]
pub struct ModelRequest {
    pub run_id: RunId,
    pub purpose: Purpose,
    /// The job's attempt, from 1.
    pub attempt: u32,
    /// The user's prompt as given (also in `messages`); the scripted model reads it.
    pub prompt: String,
    pub system: String,
    pub messages: Vec<ChatMessage>,
    /// Empty for planning.
    pub tools: Vec<ToolSpec>,
    pub max_tokens: u32,
    pub temperature: f32,
}

/// One message of the conversation.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatMessage {
    User(String),
    Assistant {
        text: Option<String>,
        tool_calls: Vec<ToolUse>,
    },
    /// The answer to one [`ToolUse`] of the assistant message before.
    ToolResult {
        call_id: String,
        name: String,
        content: String,
        is_error: bool,
    },
}

/// A native tool call of the model.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolUse {
    pub id: String,
    pub name: String,
    pub input: Value,
}

/// A tool as told to the model; `input_schema` is JSON Schema.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    pub name: String,
    pub description: String,
    pub input_schema: Value,
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    End,
    ToolUse,
    /// Cut at the token limit; a tool call in such a reply is never run.
    Length,
    Other,
}

/// A whole reply; partial ones are errors.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelReply {
    pub text: Option<String>,
    pub tool_calls: Vec<ToolUse>,
    pub stop: StopReason,
    pub usage: Usage,
    pub model: String,
    /// `anthropic`, `openai`, `recorded` or `scripted`.
    pub provider: String,
}

/// How a model call failed; the variant is the decision.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Worth another try: connection trouble, time-out, 408, 429, 5xx, an error event inside a 200 stream.
    #[error("model call failed: {message}")]
    Transient {
        message: String,
        /// HTTP status, when there was one.
        status: Option<u16>,
        retry_after: Option<Duration>,
        /// `false`: go straight to a retry of the whole job, without further tries here.
        try_again_here: bool,
    },
    /// Never worth another try: bad request, bad key, spend limit.
    #[error("model call refused: {message}")]
    Permanent { message: String, status: Option<u16> },
    #[error("model call cancelled")]
    Cancelled,
}

/// A language model. Implementations: scripted, recorded, OpenAI-compatible, Anthropic.
pub trait Model: Send + Sync + 'static {
    /// Asks once (a try includes no retries). Dropping the future or firing `cancel` ends the request.
    fn call(
        &self,
        request: &ModelRequest,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<ModelReply, ModelError>> + Send;

    /// Provider name and model name, for logs and metrics.
    fn identity(&self) -> (String, String);
}

/// The files of one run. Implementations: S3 and memory.
pub trait Workspace: Send + Sync + 'static {
    /// Whole content; paths are checked here (see [`WorkspaceError::InvalidPath`]).
    fn read(&self, path: &str) -> impl Future<Output = Result<Bytes, WorkspaceError>> + Send;
    /// Writes a whole file and says what was stored.
    fn write(
        &self,
        path: &str,
        content: Bytes,
    ) -> impl Future<Output = Result<Written, WorkspaceError>> + Send;
    /// Every file below a directory (`""` = all), sorted by path, any number of them.
    fn list(&self, dir: &str) -> impl Future<Output = Result<Vec<FileInfo>, WorkspaceError>> + Send;
}

/// What to run in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// `sh -c` / `bash -c` of this command.
    Shell { command: String },
    /// A source text in `python`, `javascript`, `typescript`, `bash`, `ruby` or `go`.
    Code { language: String, code: String },
}

/// One sandboxed execution of a step.
#[derive(Debug, Clone)]
pub struct SandboxRequest {
    pub run_id: RunId,
    pub step_id: StepId,
    pub user_id: UserId,
    pub program: Program,
    /// Absolute, `/workspace` or below.
    pub working_dir: String,
    pub timeout: Duration,
}

/// What came of it. The files the program left are already stored when this is returned.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxOutput {
    pub stdout: String,
    pub stderr: String,
    /// One of the two was cut at 1 MiB.
    pub truncated: bool,
    /// 128 + n when signal n ended the program, as shells say; nothing when it was killed at a limit.
    pub exit_code: Option<i32>,
    pub timed_out: bool,
    /// Why it ended otherwise than by exiting, for example `killed by signal 9`, `out of memory`.
    pub ended_by: Option<String>,
    pub duration_ms: i64,
    /// Files added or changed in `/workspace`.
    pub artifacts: Vec<ArtifactRef>,
    /// There is no object store: `/workspace` started empty and is gone.
    pub ephemeral_workspace: bool,
    /// What became of the files, by path.
    pub changes: Vec<FileChange>,
    /// What the user should know although the program ended well.
    pub warnings: Vec<String>,
}

/// One of the two output streams of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

impl OutputStream {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A piece of what a program prints, for display only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputPiece {
    pub stream: OutputStream,
    /// Bytes of this stream before this piece.
    pub offset: u64,
    pub text: String,
    /// Bytes right before this piece are missing.
    pub gap: bool,
}

/// What a sandbox tells while an execution goes on. Implementations: the driver's, [`Unheard`].
pub trait SandboxEvents: Send + Sync {
    /// There is no room yet; told once per wait, while nothing of the program is under way.
    fn waiting(&self) -> impl Future<Output = Result<(), SandboxError>> + Send;
    /// There is room now; only after `waiting`.
    fn admitted(&self) -> impl Future<Output = Result<(), SandboxError>> + Send;
    /// A piece of output for live display; never blocks, may be dropped by who hears it.
    fn output(&self, piece: OutputPiece);
    /// Asked after a cancellation by a sandbox that outlives its worker: has the run ended, so that nothing of it is to go
    /// on? If not, the next worker goes on with the execution as it stands.
    fn has_ended(&self) -> impl Future<Output = bool> + Send;
    /// W3C trace context of the call, for what runs elsewhere.
    fn traceparent(&self) -> Option<String> {
        None
    }
}

/// Nobody listens; a cancelled execution is over.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unheard;

impl SandboxEvents for Unheard {
    async fn waiting(&self) -> Result<(), SandboxError> {
        Ok(())
    }

    async fn admitted(&self) -> Result<(), SandboxError> {
        Ok(())
    }

    fn output(&self, _: OutputPiece) {}

    async fn has_ended(&self) -> bool {
        true
    }
}

/// Why a program was not run, or its outcome is lost.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The host or the settings do not allow isolation; the reason names what is missing. Told to the model.
    #[error("{0}")]
    Unavailable(String),
    #[error("Invalid input: {0}")]
    InvalidInput(String),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The machinery failed; worth another attempt of the job.
    #[error("sandbox failed: {0}")]
    Failed(String),
    #[error("Cancelled")]
    Cancelled,
}

/// Isolated execution. Implementations: local namespaces, Kubernetes Jobs, none.
pub trait Sandbox: Send + Sync + 'static {
    /// Runs to the end, the time limit or cancellation; on cancellation the whole process group is gone on return, unless
    /// another worker goes on with it (see [`SandboxEvents::has_ended`]).
    fn run(
        &self,
        request: &SandboxRequest,
        events: &impl SandboxEvents,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<SandboxOutput, SandboxError>> + Send;
}

/// Tools that run in another system. Implementations: counting tools of the fault tests, [`NoRemoteTools`].
pub trait RemoteTools: Send + Sync + 'static {
    /// As told to the model.
    fn specs(&self) -> Vec<ToolSpec>;
    /// The effect of a tool of this name; nothing when there is none.
    fn effect_of(&self, tool_name: &str) -> Option<Effect>;
    /// Calls it. The call's idempotency key and epoch go with the request, so that the other system can drop what it has
    /// done already and refuse what comes from a worker that lost the run.
    /// [`ToolError::Unknown`] when the request may have been carried out and no answer came.
    fn call(
        &self,
        call: &Call<'_>,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<ToolResult, ToolError>> + Send;
}

/// There are none.
#[derive(Debug, Clone, Copy)]
pub struct NoRemoteTools;

impl RemoteTools for NoRemoteTools {
    fn specs(&self) -> Vec<ToolSpec> {
        vec![]
    }

    fn effect_of(&self, _: &str) -> Option<Effect> {
        None
    }

    async fn call(&self, call: &Call<'_>, _: &CancellationToken) -> Result<ToolResult, ToolError> {
        Ok(ToolResult::failed(
            format!("Unknown tool: {}", call.tool_name),
            0.0,
        ))
    }
}

/// Why a commit was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The run has ended meanwhile (stopped, timed out); drop the result.
    #[error("the run has ended: {0}")]
    Ended(RunStatus),
    #[error("the run is paused")]
    Paused,
    /// Another claim has taken over; nothing more may be written.
    #[error("the claim is stale")]
    Fenced,
    /// The store cannot be reached; worth another attempt.
    #[error("run store unavailable: {0}")]
    Unavailable(String),
    /// A bug: the change is not allowed by the state machine.
    #[error("change refused: {0}")]
    Refused(String),
}

/// Where a run's changes are written: one call, one transaction. Implementations: the authority, memory.
pub trait RunLog: Send + Sync {
    fn commit(&self, changes: Vec<Change>) -> impl Future<Output = Result<(), CommitError>> + Send;
    /// Whether the claim was confirmed recently enough that nobody else can have the run: asked right before anything
    /// is begun outside. A process that was stopped for a while must not go on as if nothing had happened.
    fn is_held(&self) -> bool;
    /// Whether the run has reached its end by another hand (stopped, timed out). `false` when nobody can say.
    fn has_ended(&self) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }
    /// W3C trace context of the run.
    fn traceparent(&self) -> Option<String> {
        None
    }
    /// Shows a piece of a running step's output to whoever watches; never blocks, nothing is stored.
    fn show(&self, _step_id: StepId, _piece: OutputPiece) {}
    /// Whether the run's user can pay for another turn; always, unless credits are enforced.
    fn can_pay(&self) -> impl Future<Output = Result<bool, CommitError>> + Send {
        std::future::ready(Ok(true))
    }
}
