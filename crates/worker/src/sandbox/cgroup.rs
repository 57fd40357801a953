//! Control groups: a second lock on memory and processes, where the host lets us make groups.
//!
//! Version 1 has one tree for each kind of limit, version 2 one for all. In version 2 a group that limits its children must
//! hold no process itself, so ours moves into a child of its own first (a service with `Delegate=yes`, a container).

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
#[derive(Debug, Clone, Default)]
pub(super) struct Cgroups {
    memory: Option<Parent>,
    pids: Option<Parent>,
}

#[derive(Debug, Clone)]
struct Parent {
    dir: PathBuf,
    unified: bool,
    /// The kernel fills a new group's directory with files; tests do it themselves.
    make: Make,
}

type Make = fn(&Path) -> io::Result<()>;

fn make(dir: &Path) -> io::Result<()> {
    std::fs::create_dir(dir)
}

impl Cgroups {
    /// Tries what the host allows.
    pub(super) fn find() -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::find_below(Path::new(ROOT), &own, make)
    }

    fn find_below(root: &Path, own: &str, make: Make) -> Self {
        let parents = |name: &str| -> Vec<Parent> {
            let parents = own.lines().filter_map(|line| parent(root, line, name, make));
            parents.collect()
        };
        for name in ["memory", "pids"] {
            parents(name).iter().for_each(Parent::sweep);
        }
        let usable = |name: &str, limit_v1: &str, limit_v2: &str| {
            parents(name).into_iter().find(|parent| {
                let file = if parent.unified { limit_v2 } else { limit_v1 };
                parent.try_out(file) || (parent.unified && parent.open_up() && parent.try_out(file))
            })
        };
        Self {
            memory: usable("memory", "memory.limit_in_bytes", "memory.max"),
            pids: usable("pids", "pids.max", "pids.max"),
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
            let (limit, with_swap, swap, events) = if parent.unified {
                ("memory.max", "memory.swap.max", 0, "memory.events")
            } else {
                (
                    "memory.limit_in_bytes",
                    "memory.memsw.limit_in_bytes",
                    limits.memory_bytes,
                    "memory.oom_control",
                )
            };
            std::fs::write(dir.join(limit), limits.memory_bytes.to_string())?;
            // Not every kernel counts swap; where it does, it must not be the way around the limit.
            if let Err(error) = set(&dir.join(with_swap), &swap.to_string()) {
                tracing::debug!(%error, "swap of a sandbox is not limited");
            }
            group.events = Some(dir.join(events));
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

/// Writes to a file that is there.
fn set(file: &Path, text: &str) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).open(file)?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// The directory of our own group, from a line `id:controllers:path`.
fn parent(root: &Path, line: &str, controller: &str, make: Make) -> Option<Parent> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let path = path.trim_start_matches('/');
    if controllers.is_empty() {
        let path = Path::new(path);
        // We may have moved into a child before.
        let moved = path.file_name().is_some_and(|name| *name == *own_group());
        let path = path.parent().filter(|_| moved).unwrap_or(path);
        return Some(Parent {
            dir: root.join(path),
            unified: true,
            make,
        });
    }
    let ours = controllers.split(',').any(|name| name == controller);
    ours.then(|| Parent {
        dir: root.join(controllers).join(path),
        unified: false,
        make,
    })
}

/// Names of groups hold our process id, so that those of dead processes can be removed.
const PREFIX: &str = "agent-sandbox-";
static TRIES: AtomicU32 = AtomicU32::new(0);

fn own_prefix() -> String {
    format!("{PREFIX}{}-", std::process::id())
}

/// The group our own process moves into.
fn own_group() -> String {
    own_prefix() + "own"
}

impl Parent {
    /// Lets a group of version 2 limit its children; `true` when that succeeded. Else everything is as before.
    fn open_up(&self) -> bool {
        let control = self.dir.join("cgroup.subtree_control");
        let open = || set(&control, "+memory +pids");
        if open().is_ok() {
            return true;
        }
        let (own, pid) = (self.dir.join(own_group()), std::process::id().to_string());
        let moved = (self.make)(&own).and_then(|()| set(&own.join("cgroup.procs"), &pid));
        match moved.and_then(|()| open()) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, dir = %self.dir.display(), "this control group is not ours to divide");
                let back = set(&self.dir.join("cgroup.procs"), &pid).and_then(|()| std::fs::remove_dir(&own));
                if let Err(error) = back {
                    tracing::debug!(%error, "cannot undo a control group of our own");
                }
                false
            }
        }
    }

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
        let made = (self.make)(&dir).is_ok();
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
            (parent.make)(&dir)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use agent::ports::Program;
    use std::time::Duration;

    /// Like the kernel: a new group has the files of the controllers that its parent passes on.
    fn make_v2(dir: &Path) -> io::Result<()> {
        std::fs::create_dir(dir)?;
        let passed = std::fs::read_to_string(dir.parent().unwrap().join("cgroup.subtree_control"));
        let mut files = vec!["cgroup.procs"];
        if passed.is_ok_and(|text| text.contains("+memory")) {
            files.extend(["memory.max", "memory.swap.max", "memory.events", "pids.max"]);
        }
        let busy = dir.parent().unwrap().join("cgroup.subtree_control");
        if dir.ends_with(own_group()) && busy.is_dir() && !dir.parent().unwrap().join("others").exists() {
            // Our process was the only one that kept the group from being divided.
            std::fs::remove_dir(&busy)?;
            std::fs::write(&busy, "")?;
        }
        files
            .iter()
            .try_for_each(|file| std::fs::write(dir.join(file), ""))
    }

    fn make_v1(dir: &Path) -> io::Result<()> {
        std::fs::create_dir(dir)?;
        let files = [
            "cgroup.procs",
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "pids.max",
        ];
        files
            .iter()
            .try_for_each(|file| std::fs::write(dir.join(file), ""))
    }

    fn limits() -> Limits {
        let command = String::new();
        Limits::of(&Program::Shell { command }, Duration::from_secs(1))
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    /// A group `service` of version 2 with our process in it.
    fn service() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("service");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("cgroup.procs"), "").unwrap();
        (root, dir)
    }

    #[test]
    fn version_2_limits_memory_swap_and_processes_in_one_group() {
        let (root, dir) = service();
        std::fs::write(dir.join("cgroup.subtree_control"), "+memory +pids").unwrap();
        let cgroups = Cgroups::find_below(root.path(), "0::/service\n", make_v2);
        assert_eq!(cgroups.describe(), "control groups for memory and processes");
        let group = cgroups.group("step", &limits()).unwrap();
        let own = dir.join(format!("{}step", own_prefix()));
        assert_eq!(group.dirs, [own.as_path()]);
        assert_eq!(read(&own.join("memory.max")), (512 << 20).to_string());
        assert_eq!(read(&own.join("memory.swap.max")), "0");
        assert_eq!(read(&own.join("pids.max")), (64 + OWN_PROCESSES).to_string());
        group.add(42).unwrap();
        assert_eq!(read(&own.join("cgroup.procs")), "42");
        std::fs::write(own.join("memory.events"), "low 0\noom 2\noom_kill 0\n").unwrap();
        assert!(!group.ran_out_of_memory());
        std::fs::write(own.join("memory.events"), "low 0\noom 2\noom_kill 1\n").unwrap();
        assert!(group.ran_out_of_memory());
    }

    #[test]
    fn in_version_2_our_process_makes_room_for_groups_below_its_own() {
        let (root, dir) = service();
        // Writing to a directory fails, as writing to the file does while there are processes.
        std::fs::create_dir(dir.join("cgroup.subtree_control")).unwrap();
        let cgroups = Cgroups::find_below(root.path(), "0::/service\n", make_v2);
        assert_eq!(cgroups.describe(), "control groups for memory and processes");
        let pid = std::process::id().to_string();
        assert_eq!(read(&dir.join(own_group()).join("cgroup.procs")), pid);
        // The next one to look finds the same place.
        let moved = format!("0::/service/{}\n", own_group());
        let again = Cgroups::find_below(root.path(), &moved, make_v2);
        assert_eq!(again.memory.unwrap().dir, dir);
    }

    #[test]
    fn a_group_of_others_is_left_as_it_was() {
        let (root, dir) = service();
        std::fs::create_dir(dir.join("cgroup.subtree_control")).unwrap();
        std::fs::write(dir.join("others"), "").unwrap();
        let cgroups = Cgroups::find_below(root.path(), "0::/service\n", make_v2);
        assert_eq!(cgroups.describe(), "no control groups");
        assert_eq!(read(&dir.join("cgroup.procs")), std::process::id().to_string());
        assert!(cgroups.group("step", &limits()).unwrap().dirs.is_empty());
    }

    #[test]
    fn version_1_limits_in_two_trees() {
        let root = tempfile::tempdir().unwrap();
        for tree in ["memory", "pids"] {
            std::fs::create_dir_all(root.path().join(tree).join("a/b")).unwrap();
        }
        let own = "12:pids:/a/b\n7:memory:/a/b\n1:name=systemd:/a/b\n0::/a/b\n";
        let cgroups = Cgroups::find_below(root.path(), own, make_v1);
        let group = cgroups.group("step", &limits()).unwrap();
        assert_eq!(group.dirs.len(), 2);
        for file in ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"] {
            assert_eq!(read(&group.dirs[0].join(file)), (512 << 20).to_string());
        }
        assert_eq!(
            read(&group.dirs[1].join("pids.max")),
            (64 + OWN_PROCESSES).to_string()
        );
    }
}
