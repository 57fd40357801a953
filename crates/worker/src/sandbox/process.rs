//! Starting and ending a sandboxed process tree.
//!
//! The tree: our child becomes bubblewrap outside the namespaces; its child is process 1 inside, and when that dies
//! the kernel kills all others inside. bubblewrap dies with the thread that started it, so one thread that lives as
//! long as the process starts them all.

use super::bubblewrap::Invocation;
use super::cgroup::Group;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io;
use std::os::unix::fs::fchown;
use std::os::unix::process::CommandExt;
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// A program has this long after SIGTERM; with the kill itself it stays below 2 s.
const TERM_GRACE: Duration = Duration::from_millis(1500);
/// Process 1 inside appears within this time.
const INIT_TIMEOUT: Duration = Duration::from_secs(5);
/// After a kill everything is gone within this time.
const GONE_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(1);

/// Standard input, output and error.
pub(super) type Pipes = (ChildStdin, ChildStdout, ChildStderr);
type Job = (Command, Handle, oneshot::Sender<io::Result<Child>>);

/// The thread that starts processes; ends with the last clone.
#[derive(Debug, Clone)]
pub(super) struct Spawner(mpsc::Sender<Job>);

impl Spawner {
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("sandbox-spawner".to_owned())
            .spawn(move || {
                for (mut command, runtime, answer) in queue {
                    let _entered = runtime.enter();
                    if answer.send(command.spawn()).is_err() {
                        tracing::debug!("nobody waits for a started sandbox; it was killed");
                    }
                }
            })?;
        Ok(Self(jobs))
    }

    async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (answer, started) = oneshot::channel();
        let gone = |_| io::Error::other("the spawner thread is gone");
        self.0
            .send((command, Handle::current(), answer))
            .map_err(|_| io::Error::other("the spawner thread is gone"))?;
        started.await.map_err(gone)?
    }
}

/// A running tree; dropped, it is killed.
#[derive(Debug)]
pub(super) struct Tree {
    child: Child,
    init: Option<Init>,
}

/// Process 1 of the namespace.
#[derive(Debug, Clone)]
pub(super) struct Init {
    pid: u32,
    namespace: String,
}

impl Init {
    fn of(pid: u32) -> Option<Self> {
        let namespace = pid_namespace(pid)?;
        Some(Self { pid, namespace })
    }

    /// All processes inside but process 1, by their ids outside.
    pub(super) fn others(&self) -> Vec<u32> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| *pid != self.pid && pid_namespace(*pid).as_ref() == Some(&self.namespace))
            .collect()
    }

    fn is_there(&self) -> bool {
        pid_namespace(self.pid).as_ref() == Some(&self.namespace) && !is_zombie(self.pid)
    }

    fn signal(pid: u32, signal: Signal) {
        // It may have ended this moment: that is what we want.
        if let Err(error) = kill(Pid::from_raw(pid as i32), signal) {
            tracing::debug!(pid, %error, "cannot signal a sandboxed process");
        }
    }

    fn terminate(&self) {
        self.others()
            .into_iter()
            .for_each(|pid| Self::signal(pid, Signal::SIGTERM));
    }

    fn kill(&self) {
        if self.is_there() {
            Self::signal(self.pid, Signal::SIGKILL);
        }
    }
}

/// Ended, and only not yet collected by its parent: after bubblewrap's own end that is the machine's init, which may take
/// its time. Process 1 of a namespace becomes one only when all others inside are gone.
fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in brackets and may hold anything.
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

fn pid_namespace(pid: u32) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?;
    Some(link.to_str()?.to_owned())
}

fn command(argv: &[String], id: Option<u32>) -> Command {
    let (program, arguments) = argv
        .split_first()
        .map_or(("", argv), |(first, rest)| (first.as_str(), rest));
    let mut command = std::process::Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .process_group(0);
    if let Some(id) = id {
        // Also gives up all other groups.
        command.uid(id).gid(id);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    command
}

impl Tree {
    /// Starts bubblewrap in `group` as user `id`, if one is given. Until it has its options it does nothing: so long it can
    /// be put into control groups.
    pub(super) async fn start(
        spawner: &Spawner,
        invocation: &Invocation,
        group: &Group,
        id: Option<u32>,
    ) -> io::Result<(Self, ChildStdout, ChildStderr)> {
        let (mut tree, pid, (mut options, stdout, stderr)) =
            Self::spawned(spawner, invocation, group, id).await?;
        options.write_all(&invocation.options).await?;
        drop(options);
        tree.init = tree.find_init(pid).await?;
        Ok((tree, stdout, stderr))
    }

    /// Starts a lasting program, which waits for a line in the same way; its standard input stays open.
    pub(super) async fn start_lasting(
        spawner: &Spawner,
        invocation: &Invocation,
        group: &Group,
        id: Option<u32>,
    ) -> io::Result<(Self, Pipes)> {
        let (mut tree, pid, mut pipes) = Self::spawned(spawner, invocation, group, id).await?;
        pipes.0.write_all(b"go\n").await?;
        tree.init = tree.find_init(pid).await?;
        Ok((tree, pipes))
    }

    async fn spawned(
        spawner: &Spawner,
        invocation: &Invocation,
        group: &Group,
        id: Option<u32>,
    ) -> io::Result<(Self, u32, Pipes)> {
        let mut child = spawner.spawn(command(&invocation.argv, id)).await?;
        let pid = child
            .id()
            .ok_or_else(|| io::Error::other("the sandbox ended at once"))?;
        group.add(pid)?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("a pipe to the sandbox is missing"));
        };
        if id.is_some() {
            // A pipe belongs to who made it; programs open theirs again as `/dev/stdout`.
            fchown(&stdout, id, None)?;
            fchown(&stderr, id, None)?;
        }
        Ok((Self { child, init: None }, pid, (stdin, stdout, stderr)))
    }

    /// Process 1 inside, or nothing when bubblewrap ended before it made one (or the program already ended).
    async fn find_init(&mut self, outer: u32) -> io::Result<Option<Init>> {
        let own = pid_namespace(std::process::id());
        let deadline = Instant::now() + INIT_TIMEOUT;
        loop {
            let children =
                std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
            let found = children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .find_map(Init::of);
            if found
                .as_ref()
                .is_some_and(|init| Some(&init.namespace) != own.as_ref())
            {
                return Ok(found);
            }
            if self.child.try_wait()?.is_some() {
                return Ok(None);
            }
            if Instant::now() > deadline {
                return Err(io::Error::other("the sandbox did not start within 5 s"));
            }
            sleep(POLL).await;
        }
    }

    pub(super) fn init(&self) -> Option<&Init> {
        self.init.as_ref()
    }

    /// Waits for the end of the program. Its background processes may still be there: see [`Tree::end`].
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks the processes to end, waits a moment, then kills what is left.
    pub(super) async fn terminate(&mut self) -> io::Result<()> {
        if let Some(init) = &self.init {
            init.terminate();
        }
        if let Ok(ended) = timeout(TERM_GRACE, self.child.wait()).await {
            ended?;
        }
        self.end().await
    }

    /// Kills all processes; none is left when this returns without an error.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        match &self.init {
            Some(init) => init.kill(),
            None => self.child.start_kill().or_else(|error| match error.kind() {
                io::ErrorKind::InvalidInput => Ok(()),
                _ => Err(error),
            })?,
        }
        let deadline = Instant::now() + GONE_TIMEOUT;
        // With process 1 the kernel kills all others and waits for them, before it can be seen to be gone.
        tokio::select! {
            ended = self.child.wait() => drop(ended?),
            () = sleep_until(deadline) => self.child.start_kill()?,
        }
        while self.init.as_ref().is_some_and(Init::is_there) {
            if Instant::now() > deadline {
                return Err(io::Error::other("a sandboxed process cannot be killed"));
            }
            sleep(POLL).await;
        }
        Ok(())
    }
}
