//! Isolated execution of programs the model wrote.
//!
//! Invariants:
//! - A program runs in its own user, mount, pid, network, ipc, uts and cgroup namespaces or not at all; there is no
//!   fallback to a bare process. The first use proves it on this host (`probe`).
//! - Inside, it is confined once more (`toolbox::confine`): Landlock on files, a filter of system calls, limits. Our own
//!   program does that as its hidden first argument, and becomes the tool.
//! - It never has our user id's rights outside: as root we give up root first, because a process whose id outside
//!   is 0 may write `/proc/sys` and is exempt from process limits even inside namespaces.
//! - It sees `/usr`, a stub of `/etc`, its own `/proc`, `/dev` and `/tmp`, and `/workspace`; its environment holds
//!   four fixed variables.
//! - When [`Sandbox::run`] returns, every process of the program is gone and its files
//!   are stored.

mod bubblewrap;
mod cgroup;
mod code;
mod host;
mod launcher;
mod limits;
mod local;
mod machine;
mod options;
mod output;
mod probe;
mod process;
mod scratch;
mod watch;

pub use local::LocalSandbox;
pub(crate) use local::check;
pub use options::{SandboxOptions, ToolExecutor};
pub(crate) use output::text;

use crate::figures::SandboxInUse;
use crate::kubernetes::{KubernetesOptions, KubernetesSandbox, Surroundings};
use agent::ports::{Program, Sandbox, SandboxError, SandboxEvents, SandboxOutput, SandboxRequest};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tools::launch::{Launcher, NoLauncher};

/// No isolated execution: says what to set.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoneSandbox;

impl Sandbox for NoneSandbox {
    fn refusal(&self, request: &SandboxRequest) -> Option<SandboxError> {
        let tool = tool_name(&request.program);
        Some(SandboxError::Unavailable(format!(
            "{tool} is not configured: set TOOL_EXECUTOR"
        )))
    }

    async fn run(
        &self,
        request: &SandboxRequest,
        _events: &impl SandboxEvents,
        _cancel: &CancellationToken,
    ) -> Result<SandboxOutput, SandboxError> {
        self.refusal(request).map_or(Err(SandboxError::Cancelled), Err)
    }
}

/// The tool a program comes from.
pub(crate) fn tool_name(program: &Program) -> &'static str {
    match program {
        Program::Shell { .. } => "shell",
        Program::Code { .. } => "code",
    }
}

/// The sandbox chosen by `TOOL_EXECUTOR`.
#[derive(Debug, Clone)]
pub enum AnySandbox {
    Local(LocalSandbox),
    Kubernetes(Box<KubernetesSandbox>),
    None(NoneSandbox),
}

impl AnySandbox {
    /// Makes the chosen sandbox; the local one is tried on this host at once. Never fails: an unusable sandbox says
    /// why on each call and in [`AnySandbox::describe`].
    /// What programs print passes the redactor before anybody sees it.
    pub async fn start(
        options: &SandboxOptions,
        kubernetes: &KubernetesOptions,
        around: Surroundings,
    ) -> Self {
        match options.tool_executor {
            ToolExecutor::Local => {
                Self::Local(LocalSandbox::start(options, around.workspaces, around.redactor).await)
            }
            ToolExecutor::Kubernetes => {
                Self::Kubernetes(Box::new(KubernetesSandbox::start(kubernetes, around).await))
            }
            ToolExecutor::None => Self::None(NoneSandbox),
        }
    }

    /// The cluster's, when tools run there.
    pub fn kubernetes(&self) -> Option<&KubernetesSandbox> {
        match self {
            Self::Kubernetes(kubernetes) => Some(kubernetes),
            Self::Local(_) | Self::None(_) => None,
        }
    }

    /// Who starts browsers and servers of tools: this machine, if it can isolate them.
    pub fn launcher(&self) -> Arc<dyn Launcher> {
        match self {
            Self::Local(local) => local.launcher(),
            Self::Kubernetes(_) | Self::None(_) => Arc::new(NoLauncher {
                reason: "programs of tools are started only with TOOL_EXECUTOR=local".to_owned(),
            }),
        }
    }

    /// One line for the log: what is enforced, or why nothing can run.
    pub fn describe(&self) -> String {
        match self {
            Self::Local(local) => local.describe(),
            Self::Kubernetes(kubernetes) => kubernetes.describe(),
            Self::None(_) => "no sandbox: TOOL_EXECUTOR=none".to_owned(),
        }
    }
}

impl Sandbox for AnySandbox {
    fn refusal(&self, request: &SandboxRequest) -> Option<SandboxError> {
        match self {
            Self::Local(local) => local.refusal(request),
            Self::Kubernetes(_) => check(request).err(),
            Self::None(none) => none.refusal(request),
        }
    }

    async fn run(
        &self,
        request: &SandboxRequest,
        events: &impl SandboxEvents,
        cancel: &CancellationToken,
    ) -> Result<SandboxOutput, SandboxError> {
        let done = match self {
            Self::Local(local) => {
                let _in_use = SandboxInUse::begin();
                local.run(request, events, cancel).await
            }
            // Counts a sandbox from the moment there is one: a call may wait for its place.
            Self::Kubernetes(kubernetes) => kubernetes.run(request, events, cancel).await,
            Self::None(none) => return none.run(request, events, cancel).await,
        };
        if matches!(done, Err(SandboxError::Unavailable(_) | SandboxError::Failed(_))) {
            metrics::counter!("agent_sandbox_errors_total").increment(1);
        }
        done
    }
}
