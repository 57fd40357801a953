//! `TOOL_EXECUTOR=local`: programs in namespaces of this machine.

use super::code::launch;
use super::launcher::LocalLauncher;
use super::machine::{Machine, failed};
use super::options::SandboxOptions;
use super::scratch::StepDir;
use super::tool_name;
use crate::workspace::{Manifest, RunWorkspace, Synced, Workspaces};
use agent::ports::{Sandbox, SandboxError, SandboxEvents, SandboxOutput, SandboxRequest, WorkspaceError};
use domain::Redactor;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tools::launch::Launcher;

const ROOT: &str = "/workspace";
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_TIMEOUT: Duration = Duration::from_hours(1);

/// Programs in namespaces. Clones share the scratch directory.
#[derive(Debug, Clone)]
pub struct LocalSandbox {
    /// Or why nothing can be isolated here, with what to do.
    machine: Arc<Result<Machine, String>>,
    workspaces: Workspaces,
}

impl LocalSandbox {
    /// Looks the machine over and proves the isolation with a harmless program. This very program must be one that
    /// looks for [`toolbox::confine::VERB`] before all else.
    pub async fn start(options: &SandboxOptions, workspaces: Workspaces, redactor: Arc<Redactor>) -> Self {
        match std::env::current_exe() {
            Ok(program) => Self::start_with(&program, options, workspaces, redactor).await,
            Err(error) => Self {
                machine: Arc::new(Err(format!("this program cannot find itself: {error}"))),
                workspaces,
            },
        }
    }

    /// The same with another program that knows that word: `agent-worker`, for programs that have a sandbox beside their own
    /// purpose.
    pub async fn start_with(
        program: &Path,
        options: &SandboxOptions,
        workspaces: Workspaces,
        redactor: Arc<Redactor>,
    ) -> Self {
        let machine = Machine::start(options, program, redactor).await;
        if let Err(reason) = &machine {
            tracing::warn!(
                reason,
                "no sandbox on this machine: the tools shell and code will fail"
            );
        }
        Self {
            machine: Arc::new(machine),
            workspaces,
        }
    }

    /// Starts lasting programs the same way.
    pub fn launcher(&self) -> Arc<dyn Launcher> {
        Arc::new(LocalLauncher(self.machine.clone()))
    }

    /// What is enforced here, or why nothing can run.
    pub fn describe(&self) -> String {
        match self.machine.as_ref() {
            Ok(machine) => machine.describe(),
            Err(reason) => format!("no sandbox: {reason}"),
        }
    }

    /// Whether programs can run here.
    pub fn is_available(&self) -> bool {
        self.machine.is_ok()
    }

    fn machine(&self, request: &SandboxRequest) -> Result<&Machine, SandboxError> {
        let tool = tool_name(&request.program);
        let unavailable = |reason| SandboxError::Unavailable(format!("{tool} is not available: {reason}"));
        self.machine.as_ref().as_ref().map_err(unavailable)
    }

    async fn execute(
        &self,
        machine: &Machine,
        request: &SandboxRequest,
        (events, cancel): (&impl SandboxEvents, &CancellationToken),
    ) -> Result<SandboxOutput, SandboxError> {
        let launch = launch(&request.program, &machine.host.tools)?;
        let step = machine.scratch.step().map_err(failed)?;
        let files = Files::fetch(&self.workspaces, request, &step).await?;
        if let Some((name, text)) = &launch.source {
            step.write_code(name, text).map_err(failed)?;
        }
        let mut output = machine
            .run(request, &launch, &step, (events, cancel, files.max_bytes))
            .await?;
        let stored = files.store(&step).await?;
        output.artifacts = stored.artifacts;
        output.changes = stored.changes;
        output.unkept = stored.fault;
        output.ephemeral_workspace = files.workspace.is_none();
        Ok(output)
    }
}

impl Sandbox for LocalSandbox {
    fn refusal(&self, request: &SandboxRequest) -> Option<SandboxError> {
        check(request)
            .and_then(|()| self.machine(request).map(drop))
            .err()
    }

    async fn run(
        &self,
        request: &SandboxRequest,
        events: &impl SandboxEvents,
        cancel: &CancellationToken,
    ) -> Result<SandboxOutput, SandboxError> {
        check(request)?;
        let machine = self.machine(request)?;
        tokio::select! {
            biased;
            result = self.execute(machine, request, (events, cancel)) => result,
            // Before and after the program there are transfers, which may simply be dropped.
            () = cancelled_for_good(cancel) => Err(SandboxError::Cancelled),
        }
    }
}

/// Ends a moment after the cancellation, so that a running program is ended in order first.
async fn cancelled_for_good(cancel: &CancellationToken) {
    const ORDERLY: Duration = Duration::from_millis(700);
    cancel.cancelled().await;
    tokio::time::sleep(ORDERLY).await;
}

/// Refuses what no sandbox takes.
pub(crate) fn check(request: &SandboxRequest) -> Result<(), SandboxError> {
    let dir = request.working_dir.as_str();
    let inside = dir == ROOT || dir.strip_prefix("/workspace/").is_some();
    if !inside || dir.split('/').any(|part| part == "..") || dir.contains('\0') {
        return Err(SandboxError::InvalidInput(
            "working_dir must be inside /workspace".to_owned(),
        ));
    }
    if !(MIN_TIMEOUT..=MAX_TIMEOUT).contains(&request.timeout) {
        return Err(SandboxError::InvalidInput(
            "timeout must be 1 to 3600 seconds".to_owned(),
        ));
    }
    super::code::check(&request.program)
}

/// The run's files in a step's directory.
struct Files {
    workspace: Option<RunWorkspace>,
    before: Manifest,
    tool: &'static str,
    max_bytes: u64,
}

impl Files {
    async fn fetch(
        workspaces: &Workspaces,
        request: &SandboxRequest,
        step: &StepDir,
    ) -> Result<Self, SandboxError> {
        let workspace = workspaces.of_run(&request.user_id, request.run_id);
        let (tool, max_bytes) = (tool_name(&request.program), workspace.max_bytes());
        let workspace = workspace.is_configured().then_some(workspace);
        let before = match &workspace {
            Some(workspace) => workspace.sync_down(&step.workspace(), tool).await?,
            None => Manifest::default(),
        };
        step.hand_over().map_err(failed)?;
        Ok(Self {
            workspace,
            before,
            tool,
            max_bytes,
        })
    }

    async fn store(&self, step: &StepDir) -> Result<Synced, SandboxError> {
        match &self.workspace {
            Some(workspace) => match workspace
                .sync_up(&step.workspace(), &self.before, self.tool)
                .await
            {
                // Nothing is kept, but the program ran: what it printed stays.
                Err(fault @ WorkspaceError::LimitExceeded) => Ok(Synced {
                    fault: Some(fault.to_string()),
                    ..Synced::default()
                }),
                stored => Ok(stored?),
            },
            None => Ok(Synced::default()),
        }
    }
}
