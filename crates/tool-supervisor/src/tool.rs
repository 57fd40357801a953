//! Starting the tool and waiting for its end.

use crate::Failure;
use crate::exec::{CONFINEMENT, PROGRAM};
use crate::processes::{End, Processes};
use crate::signals::{Event, Signals};
use nix::unistd::Pid;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use toolbox::confine::Policy;
use toolbox::launch::{ENVIRONMENT, Launch, Toolchain, launch};
use toolbox::tree;
use toolbox::wire::{FailureClass, Limits, Order, Program};

/// Where the source text is; the same for every call, so that it means something in an error's text.
const CODE_DIR: &str = "/tmp/agent-code";
/// From SIGTERM to SIGKILL.
const TERM_GRACE: Duration = Duration::from_millis(500);
/// A process that has not become the tool after this time never will.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait for an event, should one be lost.
const TICK: Duration = Duration::from_millis(500);
/// The workspace is measured this often, and less often when that takes long.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOK_SHARE: u32 = 20;
/// Above the limits while the tool runs: temporary files may go beyond them.
const SLACK_BYTES: u64 = 256 * 1024 * 1024;
const SLACK_FACTOR: usize = 4;

fn configuration(message: impl Into<String>) -> Failure {
    Failure::new(FailureClass::Configuration, message)
}

fn internal(message: impl Into<String>) -> Failure {
    Failure::new(FailureClass::Internal, message)
}

/// A tool that can be started.
#[derive(Debug)]
pub(crate) struct Tool {
    launch: Launch,
    dir: PathBuf,
}

/// A started tool.
#[derive(Debug)]
pub(crate) struct Running {
    pub processes: Processes,
    pub stdout: ChildStdout,
    pub stderr: ChildStderr,
}

impl Tool {
    /// Finds the interpreter and the directory, and writes the source text.
    pub(crate) fn prepare(program: &Program, order: &Order) -> Result<Self, Failure> {
        let tools = Toolchain::find(|_| true).ok_or_else(|| configuration("the image has no sh"))?;
        let typescript = matches!(program, Program::Code { language, .. } if language == "typescript");
        let tools = if typescript { tools.with_versions() } else { tools };
        let launch = launch(program, &tools, CODE_DIR).map_err(|error| configuration(error.to_string()))?;
        let dir = PathBuf::from(&order.working_dir);
        if !dir.is_dir() {
            return Err(configuration(format!(
                "working_dir {} does not exist",
                order.working_dir
            )));
        }
        if let Some((name, text)) = &launch.source {
            let written = std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(CODE_DIR)
                .and_then(|()| std::fs::write(Path::new(CODE_DIR).join(name), text));
            written.map_err(|error| internal(format!("cannot write the source text: {error}")))?;
        }
        Ok(Self { launch, dir })
    }

    /// Starts it in its own process group.
    pub(crate) fn start(&self, program: &Path, policy: &Policy) -> Result<Running, Failure> {
        let policy = serde_json::to_string(policy).map_err(|error| internal(error.to_string()))?;
        let cannot = |error: std::io::Error| internal(format!("cannot start the tool: {error}"));
        let (mut told, theirs) = UnixStream::pair().map_err(cannot)?;
        told.set_read_timeout(Some(START_TIMEOUT)).map_err(cannot)?;
        let mut command = Command::new(program);
        command
            .args(["exec", &policy, "--"])
            .args(&self.launch.argv)
            .env_clear()
            .envs(ENVIRONMENT)
            .current_dir(&self.dir)
            .process_group(0)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(cannot)?;
        // Its copy of the socket's other end would keep us waiting.
        drop(command);
        let mut processes = Processes::new(Pid::from_raw(child.id() as i32));
        let mut why = String::new();
        let read = told.read_to_string(&mut why);
        let failure = match (read, why.strip_prefix(CONFINEMENT)) {
            (Ok(0), _) => None,
            (Ok(_), Some(why)) => Some(Failure::new(FailureClass::Confinement, why)),
            (Ok(_), None) => Some(configuration(why.strip_prefix(PROGRAM).unwrap_or(&why))),
            (Err(error), _) => Some(cannot(error)),
        };
        match (failure, child.stdout.take(), child.stderr.take()) {
            (None, Some(stdout), Some(stderr)) => Ok(Running {
                processes,
                stdout,
                stderr,
            }),
            (failure, ..) => {
                processes.kill_all();
                Err(failure.unwrap_or_else(|| internal("a pipe to the tool is missing")))
            }
        }
    }
}

/// How the tool came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ended(End),
    TimedOut,
    Stopped,
    TooLarge,
}

/// Waits for the tool's end, its time limit or an order to stop; no process of it is left after this.
///
/// # Errors
/// A process that cannot be killed: nothing it may still change can be trusted.
pub(crate) fn supervise(
    processes: &mut Processes,
    signals: &Signals,
    deadline: Instant,
) -> Result<Outcome, Failure> {
    let outcome = wait(processes, signals, deadline);
    if matches!(outcome, Outcome::TimedOut | Outcome::Stopped) {
        processes.terminate();
        let until = Instant::now() + TERM_GRACE;
        // Others than the main process may need their time, too: only when all are gone it is over early.
        while processes.collect() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    if processes.kill_all() {
        Ok(outcome)
    } else {
        Err(internal("a process of the tool cannot be killed"))
    }
}

fn wait(processes: &mut Processes, signals: &Signals, deadline: Instant) -> Outcome {
    loop {
        processes.collect();
        if let Some(end) = processes.end {
            return Outcome::Ended(end);
        }
        let now = Instant::now();
        if now >= deadline {
            return Outcome::TimedOut;
        }
        match signals.events.recv_timeout(TICK.min(deadline - now)) {
            // Without the thread of signals, which cannot be, it is stopped in order.
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return Outcome::Stopped,
            Ok(Event::TooLarge) => return Outcome::TooLarge,
            Ok(Event::Child) | Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Watches the size of the workspace until the process ends.
pub(crate) fn watch(root: PathBuf, limits: Limits, events: Sender<Event>) -> std::io::Result<()> {
    let (max_files, max_bytes) = (
        limits.files.saturating_mul(SLACK_FACTOR),
        limits.total_bytes.saturating_add(SLACK_BYTES),
    );
    let look = move || {
        loop {
            let began = Instant::now();
            let (files, bytes) = tree::used(&root, max_files);
            if files > max_files || bytes > max_bytes {
                // Nobody listens when the call is over.
                events.send(Event::TooLarge).unwrap_or(());
                return;
            }
            std::thread::sleep(LOOK_EVERY.max(began.elapsed() * LOOK_SHARE));
        }
    };
    std::thread::Builder::new().name("watch".to_owned()).spawn(look)?;
    Ok(())
}
