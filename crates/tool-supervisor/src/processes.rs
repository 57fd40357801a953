//! Children, grandchildren and orphans: collected as they end, and all killed in the end.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(2);
/// What survives SIGKILL this long (it hangs in the kernel) is left to whoever ends the container.
const GONE_TIMEOUT: Duration = Duration::from_secs(5);

/// How the tool's main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Exited(i32),
    Signalled(i32),
}

/// The tool's processes.
#[derive(Debug)]
pub(crate) struct Processes {
    main: Pid,
    pub end: Option<End>,
}

impl Processes {
    /// `main` leads its process group.
    pub(crate) fn new(main: Pid) -> Self {
        Self { main, end: None }
    }

    /// Collects everyone who has ended; `false` when there are no children any more.
    pub(crate) fn collect(&mut self) -> bool {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.main => self.end = Some(End::Exited(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.main => {
                    self.end = Some(End::Signalled(signal as i32));
                }
                Ok(WaitStatus::StillAlive) => return true,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// SIGTERM to the tool's process group.
    pub(crate) fn terminate(&self) {
        send(|| killpg(self.main, Signal::SIGTERM));
    }

    /// Kills all processes but ourselves; `true` when none is left.
    pub(crate) fn kill_all(&mut self) -> bool {
        let until = Instant::now() + GONE_TIMEOUT;
        loop {
            if is_first() {
                send(|| kill(Pid::from_raw(-1), Signal::SIGKILL));
            } else {
                // Not after it was collected: its number may be another's by now.
                if self.end.is_none() {
                    send(|| killpg(self.main, Signal::SIGKILL));
                }
                for pid in descendants() {
                    send(|| kill(pid, Signal::SIGKILL));
                }
            }
            let children = self.collect();
            if !children {
                return true;
            }
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Whoever has ended meanwhile is what we want.
fn send(signal: impl Fn() -> nix::Result<()>) {
    if let Err(error) = signal()
        && error != Errno::ESRCH
    {
        crate::complain(&format!("cannot signal a process: {error}\n"));
    }
}

/// Process 1 of its namespace: then everything it sees is the tool's.
fn is_first() -> bool {
    std::process::id() == 1
}

/// All processes below this one, orphans included: they come to us.
fn descendants() -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parents: HashMap<i32, i32> = pids.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let own = std::process::id() as i32;
    let is_ours = |pid: i32| {
        let ancestors = std::iter::successors(Some(pid), |pid| parents.get(pid).copied());
        ancestors.take(parents.len() + 1).skip(1).any(|pid| pid == own)
    };
    let ours = parents.keys().filter(|pid| is_ours(**pid));
    ours.map(|pid| Pid::from_raw(*pid)).collect()
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in brackets and may hold anything; state and parent follow.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split_whitespace().nth(1)?.parse().ok()
}
