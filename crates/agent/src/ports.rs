//! What the agent needs from outside, as traits with at least two real implementations each.

mod sandbox;

pub use domain::files::{FileInfo, WorkspaceError, Written};
pub use sandbox::{
    OutputPiece, OutputStream, Program, Sandbox, SandboxError, SandboxEvents, SandboxOutput, SandboxRequest,
    Unheard,
};

use crate::purse::Purse;
use crate::tools::{Call, ToolError};
use bytes::Bytes;
use domain::action::Usage;
use domain::budget::{Reached, Spend};
use domain::change::Change;
use domain::ids::{RunId, StepId};
use domain::{Effect, Labels, Price, RunStatus, ToolResult};
use futures::future::BoxFuture;
use serde_json::Value;
use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

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
    /// Money or quota is spent at the vendor: no wait helps, a person has to raise it, and then the call can be made.
    #[error("model call refused: {message}")]
    Spent { message: String, status: Option<u16> },
    /// Never worth another try: bad request, bad key.
    #[error("model call refused: {message}")]
    Permanent { message: String, status: Option<u16> },
    #[error("model call cancelled")]
    Cancelled,
}

/// A try that failed after the vendor had begun to answer: it used tokens all the same.
#[derive(Debug, Clone, PartialEq)]
pub struct FailedCall {
    pub model: String,
    pub provider: String,
    pub usage: Usage,
}

/// Who looks at a model call while it is under way.
pub trait CallWatch: Send + Sync {
    /// A piece of the reply's text has come. Never blocks. A try that fails takes back what it said.
    fn text(&self, text: &str);
    /// A try failed and used tokens.
    fn failed(&self, call: FailedCall);
    /// Whether another try fits into what may be spent; it is set aside where caps are shared.
    fn may_try_again(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }
}

/// Nobody looks.
#[derive(Debug, Clone, Copy)]
struct Unwatched;

impl CallWatch for Unwatched {
    fn text(&self, _: &str) {}

    fn failed(&self, _: FailedCall) {}
}

/// A language model. Implementations: scripted, recorded, OpenAI-compatible, Anthropic.
pub trait Model: Send + Sync + 'static {
    /// Asks once (a try includes no retries), looked at while it is under way; a model that answers at once has nothing to
    /// show. Dropping the future or firing `cancel` ends the request.
    fn call_watched(
        &self,
        request: &ModelRequest,
        watch: &dyn CallWatch,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<ModelReply, ModelError>> + Send;

    /// As [`Model::call_watched`], when nobody looks.
    fn call(
        &self,
        request: &ModelRequest,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<ModelReply, ModelError>> + Send {
        self.call_watched(request, &Unwatched, cancel)
    }

    /// What a call costs today at most; nothing when nobody knows.
    fn price(&self) -> Option<Price> {
        None
    }

    /// Provider name and model name, for logs and metrics.
    fn identity(&self) -> (String, String);
}

/// The files of one run. Implementations: S3 and memory.
pub trait Workspace: Send + Sync + 'static {
    /// Why reading or writing this path would be refused before anything is done.
    fn refusal(&self, _path: &str) -> Option<WorkspaceError> {
        None
    }
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

/// Tools that run in another system. Implementations: the crate `tools`, counting tools of the fault tests, [`NoRemoteTools`].
pub trait RemoteTools: Send + Sync + 'static {
    /// As told to the model.
    fn specs(&self) -> Vec<ToolSpec>;
    /// The effect of a call; nothing when there is no tool of this name.
    fn effect_of(&self, tool_name: &str, tool_input: &Value) -> Option<Effect>;
    /// What a call reads and where it acts, for the policy of the run.
    fn labels_of(&self, tool_name: &str, tool_input: &Value) -> Labels;
    /// A hash over all that another system says of a tool. Part of what a person is asked to approve: a tool that is described
    /// otherwise is asked for again. None for tools whose description is ours.
    fn pin_of(&self, _tool_name: &str) -> Option<String> {
        None
    }
    /// What a call would be told before anything is done or asked of another system: not set up, wrong input, not for this run.
    /// Holds no word of another system. `call` gives the same then.
    fn refusal(&self, _call: &Call<'_>) -> Option<ToolResult> {
        None
    }
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

    fn effect_of(&self, _: &str, _: &Value) -> Option<Effect> {
        None
    }

    fn labels_of(&self, _: &str, _: &Value) -> Labels {
        Labels::default()
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
    /// Shows a piece of a reply's text while it comes; never blocks, nothing is stored. Turn 0 is the plan; a new try of the
    /// same reply begins anew. The empty text says that nothing more comes.
    fn show_text(&self, _turn: u32, _try: u32, _text: &str) {}
    /// What the run may spend; nothing when it has no budget.
    fn purse(&self) -> Option<&Purse> {
        None
    }
    /// Reads the caps of the purse again.
    fn refresh_purse(&self) -> impl Future<Output = Result<(), CommitError>> + Send {
        std::future::ready(Ok(()))
    }
    /// Whether one of the caps that other runs share is on money.
    fn caps_money(&self) -> bool {
        false
    }
    /// Sets the worst case of a turn's call aside, in place of what was set aside for the run before, or says which shared cap
    /// leaves no room for it.
    fn reserve(
        &self,
        _turn: u32,
        _worst: Spend,
    ) -> impl Future<Output = Result<Option<Reached>, CommitError>> + Send {
        std::future::ready(Ok(None))
    }
    /// Whether the run's user can pay for another turn; always, unless credits are enforced.
    fn can_pay(&self) -> impl Future<Output = Result<bool, CommitError>> + Send {
        std::future::ready(Ok(true))
    }
}
