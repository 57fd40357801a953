//! One container: its processes, its control groups, its log.

use super::logs::Log;
use super::network::Spawner;
use super::{object, quota, rootfs::Root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Waits for a line, then becomes the container: until then it can be put into control groups.
const GATE: &str = "read -r line || exit 125; exec \"$@\" </dev/null";
/// The kubelet's `podPidsLimit`.
const PIDS: &str = "120";
/// Output that comes after the last process: what is in the pipe.
const DRAIN: Duration = Duration::from_secs(5);

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) code: i32,
    /// A process was killed for want of memory.
    pub(super) out_of_memory: bool,
}

#[derive(Debug)]
pub(super) struct Container {
    child: Child,
    readers: Vec<JoinHandle<()>>,
    groups: Groups,
    log: Arc<Log>,
    oom: bool,
}

impl Container {
    pub(super) async fn start(spawner: &Spawner, mut root: Root<'_>, log: Arc<Log>) -> io::Result<Self> {
        let groups = Groups::make(&root.spec["resources"]["limits"]["memory"]);
        root.memory = groups.memory.as_deref();
        let (user, group) = root.ids();
        let mut command = std::process::Command::new("/bin/sh");
        command
            .args(["-c", GATE, "sh"])
            .args(root.arguments())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if nix::unistd::geteuid().is_root() {
            command.uid(user).gid(group);
        }
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        let mut child = spawner.spawn(command).await?;
        let pid = child.id().ok_or_else(|| io::Error::other("ended at once"))?;
        groups.add(pid)?;
        let mut gate = child.stdin.take().ok_or_else(|| io::Error::other("no stdin"))?;
        gate.write_all(b"go\n").await?;
        drop(gate);
        let mut readers = Vec::new();
        if let Some(out) = child.stdout.take() {
            readers.push(tokio::spawn(Arc::clone(&log).drain(out)));
        }
        if let Some(err) = child.stderr.take() {
            readers.push(tokio::spawn(Arc::clone(&log).drain(err)));
        }
        Ok(Self {
            child,
            readers,
            groups,
            log,
            oom: false,
        })
    }

    /// Process 1 inside, by its id outside.
    fn init(&self) -> Option<Pid> {
        let outer = self.child.id()?;
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
        let first = children.split_whitespace().next()?.parse().ok()?;
        Some(Pid::from_raw(first))
    }

    fn signal(&self, signal: Signal) {
        // It may have ended this moment: that is no fault.
        if let Some(init) = self.init() {
            let sent = kill(init, signal);
            debug_assert!(sent.is_ok() || sent == Err(nix::errno::Errno::ESRCH));
        }
    }

    pub(super) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    pub(super) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    pub(super) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// As the kernel does it at the limit of memory.
    pub(super) fn out_of_memory(&mut self) {
        self.oom = true;
        self.kill();
    }

    /// Every process is gone and all output is in the log when this returns.
    pub(super) async fn wait(&mut self) -> Exit {
        let status = self.child.wait().await;
        // One by one off the list: this may be dropped half-way and called again.
        while let Some(reader) = self.readers.last_mut() {
            // A reader that hangs holds a pipe that somebody outside has: not ours.
            drop(timeout(DRAIN, reader).await);
            self.readers.pop();
        }
        self.log.end();
        let out_of_memory = self.oom || self.groups.out_of_memory();
        self.groups.remove().await;
        let code = status.map_or(255, |status| {
            status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(9))
        });
        Exit { code, out_of_memory }
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Control groups (version 1), where the host lets us make them.
#[derive(Debug, Default)]
struct Groups {
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
}

impl Groups {
    fn make(limit: &Value) -> Self {
        let name = format!(
            "{PREFIX}{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let memory = make_group("memory", &name).filter(|dir| {
            let bytes = quota::quantity(limit) / 1_000;
            bytes == 0 || std::fs::write(dir.join("memory.limit_in_bytes"), bytes.to_string()).is_ok()
        });
        let pids = make_group("pids", &name).filter(|dir| std::fs::write(dir.join("pids.max"), PIDS).is_ok());
        Self { memory, pids }
    }

    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.memory.iter().chain(&self.pids)
    }

    fn add(&self, pid: u32) -> io::Result<()> {
        self.all()
            .try_for_each(|dir| std::fs::write(dir.join("cgroup.procs"), pid.to_string()))
    }

    fn out_of_memory(&self) -> bool {
        let Some(memory) = &self.memory else { return false };
        let text = std::fs::read_to_string(memory.join("memory.oom_control")).unwrap_or_default();
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.is_some_and(|kills| kills.trim() != "0")
    }

    /// A group is empty a moment after its last process is gone.
    async fn remove(&mut self) {
        for dir in self.memory.take().into_iter().chain(self.pids.take()) {
            for _ in 0..50 {
                if std::fs::remove_dir(&dir).is_ok() {
                    break;
                }
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for dir in self.all() {
            // Best effort: a group with dying processes cannot be removed yet.
            drop(std::fs::remove_dir(dir));
        }
    }
}

/// Names of groups hold the process id of the test, so that those of dead tests can be removed.
const PREFIX: &str = "testkit-kube-";

/// Removes what tests that are gone left behind.
pub(super) fn sweep() {
    for controller in ["memory", "pids"] {
        let parent = own_group(controller);
        let entries = parent.iter().filter_map(|dir| std::fs::read_dir(dir).ok());
        for entry in entries.flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // One with processes cannot be removed; another test may be faster.
                drop(std::fs::remove_dir(entry.path()));
            }
        }
    }
}

fn make_group(controller: &str, name: &str) -> Option<PathBuf> {
    let dir = own_group(controller)?.join(name);
    std::fs::create_dir(&dir).ok()?;
    Some(dir)
}

fn own_group(controller: &str) -> Option<PathBuf> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        controllers
            .split(',')
            .any(|one| one == controller)
            .then(|| parts.next())?
    })?;
    let parent = Path::new("/sys/fs/cgroup").join(controller);
    Some(parent.join(path.trim_start_matches('/')))
}

/// The state of a container that has ended, as the kubelet tells it.
pub(super) fn terminated(exit: Exit, started: &str, finished: &str) -> Value {
    let reason = match exit {
        Exit {
            out_of_memory: true, ..
        } => "OOMKilled",
        Exit { code: 0, .. } => "Completed",
        Exit { .. } => "Error",
    };
    serde_json::json!({"terminated": {
        "exitCode": exit.code, "reason": reason, "startedAt": started, "finishedAt": finished,
        "containerID": format!("containerd://{}", object::new_uid()),
    }})
}
