//! A pod in bubblewrap: the supervisor is process 1, without rights, with `/workspace`, `/tmp` and its order.

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, chown, geteuid};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use testkit::{Process, Program};
use toolbox::live::{Channel, Line};
use toolbox::wire::Order;

const ID: u32 = 10_001;
const LIMIT: Duration = Duration::from_mins(1);

/// A started pod; killed when dropped.
pub(crate) struct Pod {
    process: Process,
    dir: TempDir,
}

fn own(path: &Path, mode: u32) {
    if geteuid().is_root() {
        chown(path, Some(Uid::from_raw(ID)), Some(Gid::from_raw(ID))).unwrap();
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn arguments(dir: &Path) -> Vec<String> {
    let mut line: Vec<String> = vec![];
    let mut add = |words: &[&str]| line.extend(words.iter().map(|&word| word.to_owned()));
    add(&[
        "--unshare-user",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
    ]);
    add(&[
        "--as-pid-1",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
    ]);
    add(&["--uid", "10001", "--gid", "10001", "--clearenv"]);
    add(&[
        "--setenv",
        "KUBERNETES_SERVICE_HOST",
        "10.96.0.1",
        "--ro-bind",
        "/usr",
        "/usr",
    ]);
    for name in ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"] {
        match std::fs::read_link(name) {
            Ok(target) => add(&["--symlink", target.to_str().unwrap(), name]),
            Err(_) if Path::new(name).is_dir() => add(&["--ro-bind", name, name]),
            Err(_) => {}
        }
    }
    for name in [
        "/etc/alternatives",
        "/etc/ld.so.cache",
        "/etc/hosts",
        "/etc/passwd",
        "/etc/ssl",
    ] {
        add(&["--ro-bind-try", name, name]);
    }
    add(&[
        "--proc", "/proc", "--dev", "/dev", "--perms", "0755", "--tmpfs", "/run",
    ]);
    for (kind, name, place) in [
        ("--bind", "workspace", "/workspace"),
        ("--bind", "tmp", "/tmp"),
        ("--ro-bind", "order", "/run/agent-order"),
        ("--ro-bind", "supervisor", "/run/agent-bin/agent-tool-supervisor"),
    ] {
        add(&[kind, dir.join(name).to_str().unwrap(), place]);
    }
    add(&["--remount-ro", "/run", "--remount-ro", "/", "--chdir", "/", "--"]);
    add(&["/run/agent-bin/agent-tool-supervisor"]);
    line
}

impl Pod {
    pub(crate) fn start(order: &Order) -> Self {
        Self::start_with(&serde_json::to_string(order).unwrap())
    }

    pub(crate) fn start_with(order: &str) -> Self {
        Self::start_in(order, None)
    }

    /// Its standard output is a pipe that is open and never read.
    pub(crate) fn start_unread(order: &Order) -> Self {
        let script = "mkfifo unread; sleep 600 < unread & exec \"$@\" > unread";
        Self::start_in(&serde_json::to_string(order).unwrap(), Some(script))
    }

    fn start_in(order: &str, script: Option<&str>) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        own(dir.path(), 0o755);
        for name in ["workspace", "tmp", "order"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            own(&dir.path().join(name), 0o755);
        }
        std::fs::write(dir.path().join("order/order.json"), order).unwrap();
        let program = dir.path().join("supervisor");
        std::fs::copy(env!("CARGO_BIN_EXE_agent-tool-supervisor"), &program).unwrap();
        let id = ID.to_string();
        let mut line: Vec<String> = vec![];
        if let Some(script) = script {
            line.extend(["/bin/sh", "-c", script, "sh"].map(str::to_owned));
        }
        if geteuid().is_root() {
            let drop = [
                "/usr/bin/setpriv",
                "--reuid",
                &id,
                "--regid",
                &id,
                "--clear-groups",
            ];
            line.extend(drop.map(str::to_owned));
        }
        line.push("/usr/bin/bwrap".to_owned());
        line.extend(arguments(dir.path()));
        let program = Program::new(line.remove(0)).env("PATH", "/usr/bin:/bin");
        Self {
            process: line.into_iter().fold(program, Program::arg).start(),
            dir,
        }
    }

    /// The exit code.
    pub(crate) async fn end(&mut self) -> i32 {
        self.process.wait(LIMIT).await.code().unwrap_or(-1)
    }

    /// All it has said so far.
    pub(crate) fn log(&self) -> String {
        self.process.stdout()
    }

    pub(crate) fn errors(&self) -> String {
        self.process.stderr()
    }

    /// What the tool has said so far, as shown live.
    pub(crate) fn shown(&self, channel: Channel) -> String {
        let log = self.log();
        let lines = log.split_terminator('\n').filter_map(Line::parse);
        let texts = lines.filter(|line| line.channel == channel);
        texts
            .map(|line| line.text + if line.ended { "\n" } else { "" })
            .collect()
    }

    pub(crate) async fn says(&mut self, words: &str) {
        self.process.wait_for_output(words, LIMIT).await;
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.ended().is_some()
    }

    pub(crate) fn workspace(&self) -> PathBuf {
        self.dir.path().join("workspace")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    /// Process 1 inside, by its id outside.
    fn init(&self) -> Pid {
        let outer = self.process.pid();
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
        Pid::from_raw(
            children
                .split_whitespace()
                .next()
                .expect("process 1")
                .parse()
                .unwrap(),
        )
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.init(), signal).unwrap();
    }

    /// As a node that dies.
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.end().await;
    }
}
