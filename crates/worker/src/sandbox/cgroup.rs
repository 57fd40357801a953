//! Control groups: a second lock on memory and processes, where the host lets us make groups.

use super::limits::Limits;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup";
/// bubblewrap's own processes beside the program's.
const OWN_PROCESSES: u64 = 8;
/// A group is empty a moment after its last process is gone.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// Where groups can be made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Cgroups {
    memory: Option<Parent>,
    pids: Option<Parent>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Parent {
    dir: PathBuf,
    unified: bool,
}

impl Cgroups {
    /// Tries what the host allows.
    pub(super) fn find() -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        for name in ["memory", "pids"] {
            own.lines()
                .filter_map(|line| parent(line, name))
                .for_each(|parent| parent.sweep());
        }
        let controller = |name: &str, limit_v1: &str, limit_v2: &str| {
            let parents = own.lines().filter_map(|line| parent(line, name));
            let mut usable =
                parents.filter(|parent| parent.try_out(if parent.unified { limit_v2 } else { limit_v1 }));
            usable.next()
        };
        Self {
            memory: controller("memory", "memory.limit_in_bytes", "memory.max"),
            pids: controller("pids", "pids.max", "pids.max"),
        }
    }

    pub(super) fn describe(&self) -> &'static str {
        match (&self.memory, &self.pids) {
            (Some(_), Some(_)) => "control groups for memory and processes",
            (Some(_), None) => "a control group for memory",
            (None, Some(_)) => "a control group for processes",
            (None, None) => "no control groups",
        }
    }

    /// A group of its own for one execution.
    pub(super) fn group(&self, name: &str, limits: &Limits) -> io::Result<Group> {
        let mut group = Group::default();
        if let Some(parent) = &self.memory {
            let dir = group.make(parent, name)?;
            let file = if parent.unified {
                "memory.max"
            } else {
                "memory.limit_in_bytes"
            };
            std::fs::write(dir.join(file), limits.memory_bytes.to_string())?;
            group.events = Some(dir.join(if parent.unified {
                "memory.events"
            } else {
                "memory.oom_control"
            }));
        }
        if let Some(parent) = &self.pids {
            let dir = group.make(parent, name)?;
            std::fs::write(
                dir.join("pids.max"),
                (limits.processes + OWN_PROCESSES).to_string(),
            )?;
        }
        Ok(group)
    }
}

/// The directory of our own group, from a line `id:controllers:path`.
fn parent(line: &str, controller: &str) -> Option<Parent> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let path = path.trim_start_matches('/');
    if controllers.is_empty() {
        return Some(Parent {
            dir: Path::new(ROOT).join(path),
            unified: true,
        });
    }
    let ours = controllers.split(',').any(|name| name == controller);
    ours.then(|| Parent {
        dir: Path::new(ROOT).join(controllers).join(path),
        unified: false,
    })
}

/// Names of groups hold our process id, so that those of dead processes can be removed.
const PREFIX: &str = "agent-sandbox-";
static TRIES: AtomicU32 = AtomicU32::new(0);

fn own_prefix() -> String {
    format!("{PREFIX}{}-", std::process::id())
}

impl Parent {
    /// Removes what processes that are gone left behind; only empty groups can be removed at all.
    fn sweep(&self) {
        for entry in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let owner = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            let dead = owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists());
            if dead && let Err(error) = std::fs::remove_dir(entry.path()) {
                tracing::debug!(%error, name, "cannot remove an old control group");
            }
        }
    }

    /// Whether a group made here can be limited by `file`.
    fn try_out(&self, file: &str) -> bool {
        let dir = self.dir.join(format!(
            "{}try-{}",
            own_prefix(),
            TRIES.fetch_add(1, Ordering::Relaxed)
        ));
        let made = std::fs::create_dir(&dir).is_ok();
        let limited = made
            && std::fs::OpenOptions::new()
                .write(true)
                .open(dir.join(file))
                .is_ok();
        if made && let Err(error) = std::fs::remove_dir(&dir) {
            tracing::debug!(%error, "cannot remove a control group made for a try");
        }
        limited
    }
}

/// The groups of one execution; removed when dropped, or by [`Group::close`] when its processes just ended.
#[derive(Debug, Default)]
pub(super) struct Group {
    dirs: Vec<PathBuf>,
    events: Option<PathBuf>,
}

impl Group {
    fn make(&mut self, parent: &Parent, name: &str) -> io::Result<PathBuf> {
        let dir = parent.dir.join(format!("{}{name}", own_prefix()));
        if !self.dirs.contains(&dir) {
            std::fs::create_dir(&dir)?;
            self.dirs.push(dir.clone());
        }
        Ok(dir)
    }

    /// Puts a process into the group; its later children are in it as well.
    pub(super) fn add(&self, pid: u32) -> io::Result<()> {
        self.dirs
            .iter()
            .try_for_each(|dir| std::fs::write(dir.join("cgroup.procs"), pid.to_string()))
    }

    /// Whether the kernel killed a process of the group for want of memory.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let text = self
            .events
            .as_ref()
            .and_then(|file| std::fs::read_to_string(file).ok())
            .unwrap_or_default();
        let killed = |line: &str| {
            line.strip_prefix("oom_kill ")
                .and_then(|count| count.trim().parse::<u64>().ok())
        };
        text.lines().filter_map(killed).any(|count| count > 0)
    }

    /// Waits until the groups are empty and removes them.
    pub(super) async fn close(mut self) {
        for _ in 0..REMOVE_TRIES {
            remove_empty(&mut self.dirs);
            if self.dirs.is_empty() {
                return;
            }
            tokio::time::sleep(REMOVE_PAUSE).await;
        }
    }
}

/// Leaves those that are not empty yet.
fn remove_empty(dirs: &mut Vec<PathBuf>) {
    dirs.retain(|dir| std::fs::remove_dir(dir).is_err_and(|error| error.kind() != io::ErrorKind::NotFound));
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut dirs = std::mem::take(&mut self.dirs);
        remove_empty(&mut dirs);
        if dirs.is_empty() {
            return;
        }
        // Dropped with its processes just being killed: it is empty a moment later.
        let later = std::thread::Builder::new()
            .name("sandbox-cgroup".to_owned())
            .spawn(move || {
                for _ in 0..REMOVE_TRIES {
                    std::thread::sleep(REMOVE_PAUSE);
                    remove_empty(&mut dirs);
                    if dirs.is_empty() {
                        return;
                    }
                }
                tracing::warn!(?dirs, "cannot remove control groups");
            });
        if let Err(error) = later {
            tracing::warn!(%error, "cannot remove control groups");
        }
    }
}
