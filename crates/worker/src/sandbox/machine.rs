//! One machine's means of isolation, and one execution with them.

use super::bubblewrap::{STARTED, invocation};
use super::cgroup::Cgroups;
use super::host::Host;
use super::limits::Limits;
use super::options::SandboxOptions;
use super::output::{Capture, Live};
use super::probe;
use super::process::{Spawner, Tree};
use super::scratch::{Scratch, StepDir};
use super::tool_name;
use super::watch::Watch;
use agent::ports::{OutputPiece, OutputStream, SandboxError, SandboxEvents, SandboxOutput, SandboxRequest};
use domain::Redactor;
use std::fmt::Display;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use toolbox::confine::{self, Mark};
use toolbox::launch::Launch;

/// A workspace may grow beyond its limit by this much before the program is ended (temporary files).
const WORKSPACE_SLACK_BYTES: u64 = 256 * 1024 * 1024;
/// Pieces of output that wait to be told before a program must wait itself.
const PIECES: usize = 16;
/// Shells and bubblewrap tell the end by signal n as exit code 128 + n.
const SIGNALLED: i32 = 128;
const LAST_SIGNAL: i32 = 64;

#[derive(Debug)]
pub(super) struct Machine {
    pub host: Host,
    pub cgroups: Cgroups,
    pub scratch: Scratch,
    pub spawner: Spawner,
    redactor: Arc<Redactor>,
}

/// How a program ended.
#[derive(Debug)]
enum Ending {
    Exited(ExitStatus),
    TimedOut,
    Exceeded(String),
}

pub(super) fn failed(error: impl Display) -> SandboxError {
    SandboxError::Failed(error.to_string())
}

impl Machine {
    /// `program`: one of ours that knows [`confine::VERB`].
    pub(super) async fn start(
        options: &SandboxOptions,
        program: &Path,
        redactor: Arc<Redactor>,
    ) -> Result<Self, String> {
        let mut host = Host::find(program)?;
        let scratch = Scratch::open(options.tool_scratch_dir.as_deref(), host.drop_to)?;
        let seen = scratch.program(program);
        host.program = seen.map_err(|error| format!("cannot use {}: {error}", program.display()))?;
        let spawner =
            Spawner::start().map_err(|error| format!("the sandbox cannot start a thread: {error}"))?;
        let machine = Self {
            host,
            cgroups: Cgroups::find(),
            scratch,
            spawner,
            redactor,
        };
        probe::prove(&machine).await?;
        Ok(machine)
    }

    /// For the log.
    pub(super) fn describe(&self) -> String {
        let id = self
            .host
            .drop_to
            .map_or_else(|| "our own user".to_owned(), |id| format!("user {id}"));
        format!(
            "bubblewrap namespaces as {id}, {}, a filter of system calls, process limits, {}",
            confine::facts().describe(),
            self.cgroups.describe()
        )
    }

    /// Runs a program in a prepared directory; none of its processes is left on return.
    pub(super) async fn run(
        &self,
        request: &SandboxRequest,
        launch: &Launch,
        step: &StepDir,
        (events, cancel, max_bytes): (&impl SandboxEvents, &CancellationToken, u64),
    ) -> Result<SandboxOutput, SandboxError> {
        let (told, mut pieces) = mpsc::channel(PIECES);
        let watch = Watch {
            memory_bytes: Limits::of(&request.program, request.timeout).memory_bytes,
            workspace: step.workspace(),
            workspace_bytes: max_bytes.saturating_add(WORKSPACE_SLACK_BYTES),
        };
        let listening = async {
            while let Some(piece) = pieces.recv().await {
                events.output(piece);
            }
        };
        // The pieces end with the two streams, these before the execution.
        tokio::join!(
            self.execute(request, launch, step, (cancel, &watch, told)),
            listening
        )
        .0
    }

    async fn execute(
        &self,
        request: &SandboxRequest,
        launch: &Launch,
        step: &StepDir,
        (cancel, watch, told): (&CancellationToken, &Watch, mpsc::Sender<OutputPiece>),
    ) -> Result<SandboxOutput, SandboxError> {
        let started = Instant::now();
        let limits = Limits::of(&request.program, request.timeout);
        let group = self.cgroups.group(&step.name(), &limits).map_err(failed)?;
        let bwrap = invocation(&self.host, step, &request.working_dir, &limits, &launch.argv);
        let tree = Tree::start(&self.spawner, &bwrap, &group, self.host.drop_to).await;
        let (mut tree, stdout, stderr) = tree.map_err(failed)?;
        let live = |stream| Live::new(stream, told.clone());
        let stdout = Capture::start(stdout, self.redactor.chunks(), live(OutputStream::Stdout));
        let stderr = Capture::start(stderr, self.redactor.chunks(), live(OutputStream::Stderr));
        drop(told);
        let ending = supervise(&mut tree, request.timeout, cancel, watch).await;
        let ((stdout, cut_out), (stderr, cut_err)) = (stdout.finish().await, stderr.finish().await);
        let out_of_memory = group.ran_out_of_memory();
        group.close().await;
        let ending = ending?;
        if matches!(ending, Ending::Exited(_)) {
            started_well(&Mark::read(&step.state().join(STARTED)), request, &stderr)?;
        }
        let (exit_code, ended_by) = told_of(&ending, out_of_memory);
        Ok(SandboxOutput {
            stdout,
            stderr,
            truncated: cut_out || cut_err,
            exit_code,
            timed_out: matches!(ending, Ending::TimedOut),
            warnings: killed_child(exit_code, out_of_memory),
            ended_by,
            duration_ms: started.elapsed().as_millis() as i64,
            artifacts: vec![],
            unkept: None,
            ephemeral_workspace: false,
            changes: vec![],
        })
    }
}

/// A program may go on without a process that was killed for want of memory, and end well.
fn killed_child(exit_code: Option<i32>, out_of_memory: bool) -> Vec<String> {
    let warning = || "a process of the program was killed: out of memory".to_owned();
    let unseen = out_of_memory && exit_code == Some(0);
    unseen.then(warning).into_iter().collect()
}

/// Tells an end of the program from one before it: bubblewrap or the confinement gave up, or the directory is not there.
fn started_well(mark: &Mark, request: &SandboxRequest, stderr: &str) -> Result<(), SandboxError> {
    match mark {
        Mark::Started => Ok(()),
        Mark::NotReached if stderr.contains("Can't chdir") => {
            let dir = &request.working_dir;
            Err(SandboxError::InvalidInput(format!(
                "working_dir {dir} does not exist"
            )))
        }
        Mark::NotReached => Err(failed(format!("the program was not started: {}", stderr.trim()))),
        Mark::NotExecuted(reason) => Err(failed(format!("the program was not started: {reason}"))),
        Mark::Refused(reason) => Err(SandboxError::Unavailable(format!(
            "{} is not available: the program could not be confined: {reason}",
            tool_name(&request.program)
        ))),
    }
}

/// Waits for one of the ends and makes sure that nothing is left.
async fn supervise(
    tree: &mut Tree,
    limit: Duration,
    cancel: &CancellationToken,
    watch: &Watch,
) -> Result<Ending, SandboxError> {
    let init = tree.init().cloned();
    let ending = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(SandboxError::Cancelled),
        status = tree.wait() => status.map(Ending::Exited).map_err(failed),
        () = tokio::time::sleep(limit) => Ok(Ending::TimedOut),
        reason = watch.exceeded(init.as_ref()) => Ok(Ending::Exceeded(reason)),
    };
    let ended = match ending {
        Ok(Ending::TimedOut) => tree.terminate().await,
        _ => tree.end().await,
    };
    ended.map_err(failed)?;
    ending
}

/// Exit code and what to say about an end that was none of the program's own.
fn told_of(ending: &Ending, out_of_memory: bool) -> (Option<i32>, Option<String>) {
    let memory = || out_of_memory.then(|| "out of memory".to_owned());
    match ending {
        Ending::TimedOut => (None, Some("time limit".to_owned())),
        Ending::Exceeded(reason) => (None, Some(reason.clone())),
        Ending::Exited(status) => match status.code() {
            Some(code) if (SIGNALLED + 1..=SIGNALLED + LAST_SIGNAL).contains(&code) => {
                let signal = || format!("killed by signal {}", code - SIGNALLED);
                (Some(code), Some(memory().unwrap_or_else(signal)))
            }
            Some(code) => (Some(code), memory().filter(|_| code != 0)),
            None => (
                None,
                Some(memory().unwrap_or_else(|| "killed from outside".to_owned())),
            ),
        },
    }
}
