//! Keeps one child process running until it is told to stop: restarts it with back-off, ends it in order.
//!
//! Must run on the main thread's current-thread runtime (see [`crate::up::guard`]).

use crate::failure::Failure;
use crate::up::guard;
use crate::up::home::Home;
use crate::up::process::ProcessId;
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Waits before a restart: doubled each time, from the first again after a quiet time.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
const QUIET_TIME: Duration = Duration::from_secs(30);

/// A child process to be.
#[derive(Clone)]
pub struct Spec {
    pub name: String,
    /// Log file name without ending; several children may share one.
    pub log: &'static str,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub env: Vec<(String, String)>,
    pub directory: Option<PathBuf>,
    /// Drop to this user and group.
    pub user: Option<(u32, u32)>,
    /// How it is asked to end.
    pub stop_signal: Signal,
    /// What the kernel sends it when the supervisor dies.
    pub death_signal: Signal,
    /// How long it may take to end.
    pub grace: Duration,
}

impl std::fmt::Debug for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The environment holds secrets.
        f.debug_struct("Spec")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What a keeper tells its supervisor.
#[derive(Debug)]
pub enum Notice {
    Started {
        name: String,
        process: Option<ProcessId>,
    },
    /// It ended by itself and is started again after the wait.
    Died {
        name: String,
        how: String,
        wait: Duration,
    },
    Stopped {
        name: String,
    },
}

/// A running keeper.
#[derive(Debug)]
pub struct Keeper {
    name: String,
    stop: CancellationToken,
    /// Sends the stop signal again, and SIGKILL soon after.
    hurry: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Keeper {
    /// Starts the child; a program that cannot be started at all is a failure, a later death is not.
    pub fn start(spec: Spec, home: &Home, notices: mpsc::UnboundedSender<Notice>) -> Result<Self, Failure> {
        let child = spawn(&spec, home)?;
        let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
        let keeping = Keeping {
            home: home.clone(),
            notices,
            stop: stop.clone(),
            hurry: hurry.clone(),
            wait: FIRST_WAIT,
            spec,
        };
        Ok(Self {
            name: keeping.spec.name.clone(),
            stop,
            hurry,
            task: tokio::spawn(keeping.run(child)),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks the child to end.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Cancelled, it asks a second time and gives the child little time.
    pub fn hurry_handle(&self) -> CancellationToken {
        self.hurry.clone()
    }

    /// Waits until the child is gone.
    pub async fn stopped(self) {
        self.stop.cancel();
        // The task neither panics nor is it aborted; if it did, the child is gone with it (kill_on_drop).
        self.task.await.unwrap_or_default();
    }
}

struct Keeping {
    spec: Spec,
    home: Home,
    notices: mpsc::UnboundedSender<Notice>,
    stop: CancellationToken,
    hurry: CancellationToken,
    wait: Duration,
}

impl Keeping {
    async fn run(mut self, first: Child) {
        let mut child = Some(first);
        while let Some(mut running) = child.take() {
            self.tell(Notice::Started {
                name: self.spec.name.clone(),
                process: running.id().and_then(|pid| ProcessId::of(pid as i32)),
            });
            let since = Instant::now();
            tokio::select! {
                status = running.wait() => {
                    let how = status.map_or_else(|error| error.to_string(), describe);
                    child = self.again(how, since).await;
                }
                () = self.stop.cancelled() => self.end(&mut running).await,
            }
        }
        self.tell(Notice::Stopped {
            name: self.spec.name.clone(),
        });
    }

    /// Waits and starts the child again, for ever; `None` when it is to stop.
    async fn again(&mut self, mut how: String, since: Instant) -> Option<Child> {
        if since.elapsed() > QUIET_TIME {
            self.wait = FIRST_WAIT;
        }
        loop {
            let wait = self.wait;
            self.wait = (wait * 2).min(LONGEST_WAIT);
            self.tell(Notice::Died {
                name: self.spec.name.clone(),
                how,
                wait,
            });
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => return None,
            }
            match spawn(&self.spec, &self.home) {
                Ok(child) => return Some(child),
                Err(failure) => how = failure.to_string(),
            }
        }
    }

    /// Stop signal, then SIGKILL after the grace; a hurry shortens it.
    async fn end(&self, child: &mut Child) {
        Self::signal(child, self.spec.stop_signal);
        let hurried = async {
            self.hurry.cancelled().await;
        };
        tokio::select! {
            _ = child.wait() => return,
            () = tokio::time::sleep(self.spec.grace) => {}
            () = hurried => {
                Self::signal(child, self.spec.stop_signal);
                if tokio::time::timeout(Duration::from_secs(2), child.wait()).await.is_ok() {
                    return;
                }
            }
        }
        Self::signal(child, Signal::SIGKILL);
        if let Err(error) = child.wait().await {
            self.tell(Notice::Died {
                name: self.spec.name.clone(),
                how: error.to_string(),
                wait: Duration::ZERO,
            });
        }
    }

    fn signal(child: &Child, signal: Signal) {
        let Some(pid) = child.id() else { return };
        // Not yet waited for, so the id is still this child's; an error means that it has just ended.
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).unwrap_or_default();
    }

    fn tell(&self, notice: Notice) {
        // The supervisor outlives its keepers; when it does not, nobody is left to be told.
        self.notices.send(notice).unwrap_or_default();
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => {
            Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |s| s.to_string())
        }
        (None, None) => "ended".to_owned(),
    }
}

/// Starts the program behind a guard, in its own process group, with its output in its log.
fn spawn(spec: &Spec, home: &Home) -> Result<Child, Failure> {
    let told = |error: std::io::Error| Failure::new(format!("cannot start {}", spec.name)).why(&error);
    let log = home.log(spec.log).map_err(told)?;
    let mut command = Command::new(guard::own_program().map_err(told)?);
    command
        .arg("guard")
        .args(["--death-signal", spec.death_signal.as_str()])
        .args(["--parent", &std::process::id().to_string()]);
    if let Some((uid, gid)) = spec.user {
        command.args(["--uid", &uid.to_string(), "--gid", &gid.to_string()]);
    }
    command.arg("--").arg(&spec.program).args(&spec.args);
    if let Some(directory) = &spec.directory {
        command.current_dir(directory);
    }
    command
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(told)?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(told)
}
