//! A sandbox over a workspace in memory.

use agent::ports::{Program, Sandbox, SandboxError, SandboxOutput, SandboxRequest, Unheard};
use domain::{RunId, StepId, SystemClock, UserId};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use worker::sandbox::{LocalSandbox, SandboxOptions, ToolExecutor};
use worker::workspace::{MemoryObjects, Objects, RunWorkspace, Workspaces};

pub(crate) const RUN: RunId = RunId(uuid::Uuid::from_u128(7));
/// Confines itself and becomes the tool.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_agent-worker");
const MIB: u64 = 1024 * 1024;

pub(crate) struct Setup {
    pub sandbox: LocalSandbox,
    pub scratch: TempDir,
    pub files: RunWorkspace,
}

pub(crate) fn user() -> UserId {
    UserId::from("user-1")
}

pub(crate) async fn start() -> Setup {
    start_with(PROGRAM.as_ref()).await
}

/// With another program that confines itself.
pub(crate) async fn start_with(program: &Path) -> Setup {
    proven(try_with(program, in_memory()).await)
}

pub(crate) async fn start_on(workspaces: Workspaces) -> Setup {
    proven(try_with(PROGRAM.as_ref(), workspaces).await)
}

pub(crate) fn in_memory() -> Workspaces {
    let objects = Objects::Memory(MemoryObjects::new(Arc::new(SystemClock)));
    Workspaces::on(objects, 8 * MIB, 64 * MIB)
}

fn proven(setup: Setup) -> Setup {
    assert!(setup.sandbox.is_available(), "{}", setup.sandbox.describe());
    setup
}

/// A sandbox that may be none.
pub(crate) async fn try_with(program: &Path, workspaces: Workspaces) -> Setup {
    // Below a directory others may pass through: as root, programs run as another user.
    let scratch = tempfile::Builder::new()
        .permissions(permissions(0o755))
        .tempdir()
        .unwrap();
    let options = SandboxOptions {
        tool_executor: ToolExecutor::Local,
        tool_scratch_dir: Some(scratch.path().join("s")),
    };
    let files = workspaces.of_run(&user(), RUN);
    let sandbox = LocalSandbox::start_with(program, &options, workspaces, Arc::default()).await;
    Setup {
        sandbox,
        scratch,
        files,
    }
}

pub(crate) fn permissions(mode: u32) -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::Permissions::from_mode(mode)
}

pub(crate) fn shell(command: &str) -> SandboxRequest {
    request(Program::Shell {
        command: command.to_owned(),
    })
}

pub(crate) fn code(language: &str, code: &str) -> SandboxRequest {
    request(Program::Code {
        language: language.to_owned(),
        code: code.to_owned(),
    })
}

fn request(program: Program) -> SandboxRequest {
    SandboxRequest {
        run_id: RUN,
        step_id: StepId(uuid::Uuid::from_u128(8)),
        user_id: user(),
        program,
        working_dir: "/workspace".to_owned(),
        timeout: Duration::from_secs(20),
    }
}

impl Setup {
    pub(crate) async fn run(&self, request: &SandboxRequest) -> Result<SandboxOutput, SandboxError> {
        self.sandbox
            .run(request, &Unheard, &CancellationToken::new())
            .await
    }

    /// Runs a shell command that exits.
    pub(crate) async fn sh(&self, command: &str) -> SandboxOutput {
        self.run(&shell(command)).await.unwrap()
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        self.files
            .list("")
            .await
            .unwrap()
            .into_iter()
            .map(|file| file.filepath)
            .collect()
    }

    /// Directories of executions that are still there.
    pub(crate) fn leftovers(&self) -> usize {
        let instances = std::fs::read_dir(self.scratch.path().join("s")).unwrap();
        let steps = instances.flat_map(|dir| std::fs::read_dir(dir.unwrap().path()).unwrap());
        steps
            .filter(|step| step.as_ref().unwrap().path().join("workspace").exists())
            .count()
    }
}

/// Processes of this machine whose command line holds `marker`.
pub(crate) fn processes_with(marker: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .filter(|line| line.contains(marker))
        .collect()
}
