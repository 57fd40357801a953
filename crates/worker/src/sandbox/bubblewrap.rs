//! The command line of bubblewrap: what a program sees.

use super::code::CODE_DIR;
use super::host::Host;
use super::limits::{Limits, SHM_BYTES, TMP_BYTES};
use super::scratch::StepDir;
use std::path::{Path, PathBuf};
use toolbox::confine::{self, Policy};
use toolbox::launch::ENVIRONMENT;
use toolbox::relay;

/// Id inside.
const NOBODY: &str = "65534";
/// Directories of programs and libraries beside `/usr`: on most systems links into it.
const SYSTEM_DIRS: [&str; 7] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/libexec"];
/// What programs need of `/etc`; nothing about this machine's network or users.
const ETC: [&str; 6] = [
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
];
/// What browsers and servers of tools need besides.
const ETC_OF_LASTING: [&str; 5] = [
    "/etc/fonts",
    "/etc/chromium.d",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
];
/// Where a program that uses the machine's network finds names; these go over the stubs.
const ETC_OF_NETWORK: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"];
/// Waits for a line, then becomes bubblewrap with the options of the file that is its name.
const WHEN_TOLD: &str = r#"IFS= read -r told && exec "$@" 3<"$0""#;
/// [`confine::Mark`]: tells a failure of bubblewrap or of the confinement from one of the program.
pub(super) const STARTED: &str = "started";
const STATE_DIR: &str = "/run/state";
/// The way out of a browser, as its relay sees it.
const PROXY_SOCKET: &str = "/run/state/proxy";
/// Our own program inside, which confines itself and becomes the tool; the tool itself cannot open it.
const CONFINER: &str = "/run/confine";
const WRITABLE: [&str; 11] = [
    "/workspace",
    "/tmp",
    "/dev/shm",
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/pts",
    "/dev/ptmx",
];
/// Beside [`SYSTEM_DIRS`].
const READABLE: [&str; 5] = ["/usr", "/etc", "/proc", "/dev", CODE_DIR];

/// How bubblewrap is started.
#[derive(Debug)]
pub(super) struct Invocation {
    /// The program to execute and its arguments.
    pub argv: Vec<String>,
    /// Its options, read from standard input: they name our directories, and what is on a command line can be seen inside.
    /// Cut short, they lack the program to start, which is last.
    pub options: Vec<u8>,
}

/// For running `argv` in `dir`.
pub(super) fn invocation(
    host: &Host,
    dir: &StepDir,
    working_dir: &str,
    limits: &Limits,
    argv: &[String],
) -> Invocation {
    let mut options = Line(vec![]);
    options.namespaces(host, true);
    options.system();
    options.own(dir);
    options.closed(host, working_dir);
    let mut command = Line(vec![host.bwrap.display().to_string()]);
    command.add(["--args", "0", "--"]);
    // Confines itself, marks the start, then becomes the program.
    command.add([CONFINER, confine::VERB, &policy(limits, &[]), "--"]);
    command.0.extend_from_slice(argv);
    Invocation {
        argv: command.0,
        options: options.bytes(),
    }
}

/// A program that is spoken to: its standard input stays open.
#[derive(Debug)]
pub(super) struct Lasting<'a> {
    pub argv: &'a [String],
    pub env: &'a [(String, String)],
    /// To see and read beside the system.
    pub readable: &'a [PathBuf],
    /// The network of this machine.
    pub host_network: bool,
    /// The port inside that leads to [`PROXY_SOCKET`].
    pub relay: Option<u16>,
}

/// For running a lasting program. Its options stand in the file `options`, which is opened when a line was read from standard
/// input: until then it can be put into control groups.
pub(super) fn lasting(
    host: &Host,
    dir: &StepDir,
    limits: &Limits,
    what: &Lasting<'_>,
    file: &Path,
) -> Invocation {
    let mut options = Line(vec![]);
    options.namespaces(host, !what.host_network);
    options.system();
    options.own(dir);
    let of_network: &[&str] = if what.host_network { &ETC_OF_NETWORK } else { &[] };
    for path in ETC_OF_LASTING.iter().chain(of_network) {
        options.add(["--ro-bind-try", path, path]);
    }
    for path in what.readable {
        let path = path.display().to_string();
        options.add(["--ro-bind", &path, &path]);
    }
    for (name, value) in what.env {
        options.add(["--setenv", name, value]);
    }
    options.closed(host, "/workspace");
    let mut command = Line(vec![]);
    command.add(["/bin/sh", "-c", WHEN_TOLD, &file.display().to_string()]);
    command.add([&host.bwrap.display().to_string(), "--args", "3", "--"]);
    if let Some(port) = what.relay {
        command.add([CONFINER, relay::VERB, &port.to_string(), PROXY_SOCKET, "--"]);
    }
    command.add([CONFINER, confine::VERB, &policy(limits, what.readable), "--"]);
    command.0.extend_from_slice(what.argv);
    Invocation {
        argv: command.0,
        options: options.bytes(),
    }
}

/// The second wall, inside the first: should a program find a way to other files or processes, it may still not open or
/// signal them. The network is the namespace's own, in which programs may talk to each other.
fn policy(limits: &Limits, besides: &[PathBuf]) -> String {
    let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
    let policy = Policy {
        writable: paths(&WRITABLE),
        readable: [paths(&SYSTEM_DIRS), paths(&READABLE), besides.to_vec()].concat(),
        network: true,
        limits: limits.of_each_process(),
        mark: Some(Path::new(STATE_DIR).join(STARTED)),
    };
    // Paths of our own and numbers: there is nothing in it that has no JSON.
    serde_json::to_string(&policy).unwrap_or_default()
}

struct Line(Vec<String>);

impl Line {
    fn add<'a>(&mut self, arguments: impl IntoIterator<Item = &'a str>) {
        self.0.extend(arguments.into_iter().map(str::to_owned));
    }

    fn bytes(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|option| [option.as_bytes(), &[0]].concat())
            .collect()
    }

    /// The last options.
    fn closed(&mut self, host: &Host, working_dir: &str) {
        let program = host.program.display().to_string();
        self.add(["--chdir", working_dir, "--ro-bind", &program, CONFINER]);
        // The root and /dev are memory without a size: not for writing.
        self.add(["--remount-ro", "/dev", "--remount-ro", "/"]);
    }

    fn namespaces(&mut self, host: &Host, own_network: bool) {
        let kinds = ["user", "pid", "ipc", "uts", "cgroup"];
        self.0
            .extend(kinds.iter().map(|kind| format!("--unshare-{kind}")));
        if own_network {
            self.add(["--unshare-net"]);
        }
        if host.can_disable_userns {
            self.add(["--disable-userns"]);
        }
        self.add(["--die-with-parent", "--new-session", "--cap-drop", "ALL"]);
        self.add([
            "--uid",
            NOBODY,
            "--gid",
            NOBODY,
            "--hostname",
            "sandbox",
            "--clearenv",
        ]);
        for (name, value) in ENVIRONMENT {
            self.add(["--setenv", name, value]);
        }
    }

    fn system(&mut self) {
        self.add(["--ro-bind", "/usr", "/usr"]);
        for dir in SYSTEM_DIRS.map(Path::new) {
            let name = dir.display().to_string();
            match std::fs::read_link(dir) {
                Ok(target) => self.add(["--symlink", &target.display().to_string(), &name]),
                Err(_) if dir.is_dir() => self.add(["--ro-bind", &name, &name]),
                Err(_) => {}
            }
        }
        for path in ETC {
            self.add(["--ro-bind-try", path, path]);
        }
        let (tmp, shm) = (TMP_BYTES.to_string(), SHM_BYTES.to_string());
        self.add([
            "--proc", "/proc", "--dev", "/dev", "--size", &shm, "--tmpfs", "/dev/shm",
        ]);
        self.add(["--size", &tmp, "--perms", "1777", "--tmpfs", "/tmp"]);
    }

    fn own(&mut self, dir: &StepDir) {
        let stubs = dir.stubs().display().to_string();
        for name in ["passwd", "group", "hosts", "nsswitch.conf"] {
            self.add(["--ro-bind", &format!("{stubs}/{name}"), &format!("/etc/{name}")]);
        }
        self.add(["--ro-bind", &dir.code().display().to_string(), CODE_DIR]);
        self.add(["--bind", &dir.state().display().to_string(), STATE_DIR]);
        self.add(["--bind", &dir.workspace().display().to_string(), "/workspace"]);
    }
}
