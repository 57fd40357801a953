//! Isolated execution of what a model wrote.

use super::WorkspaceError;
use domain::ids::{RunId, StepId, UserId};
use domain::tool::{ArtifactRef, FileChange};
use std::future::Future;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

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
    /// Why some of the files it left, or all, are not kept, as the contract words it: the call has failed then, whatever the
    /// program did.
    pub unkept: Option<String>,
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
    /// Why this would be refused before anything is done; `run` says the same then.
    fn refusal(&self, _request: &SandboxRequest) -> Option<SandboxError> {
        None
    }
    /// Runs to the end, the time limit or cancellation; on cancellation the whole process group is gone on return, unless
    /// another worker goes on with it (see [`SandboxEvents::has_ended`]).
    fn run(
        &self,
        request: &SandboxRequest,
        events: &impl SandboxEvents,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<SandboxOutput, SandboxError>> + Send;
}
