//! Forbidden things, tried from inside a tool by `forbidden.py`. The same program outside of any sandbox must get what the
//! tool must not: else the attempt proves nothing.

use super::Backend;
use nix::libc;
use serde_json::{Value, json};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const PROGRAM: &str = include_str!("forbidden.py");
const CANARY: &str = "canary-7d1f3c";
/// Nothing to connect to where there is no API server: the address that most clusters give it.
const USUAL_API_SERVER: (&str, u16) = ("10.96.0.1", 443);
/// What any user may do outside, so that a tool could do it if nothing held it back.
const FREE_OUTSIDE: [&str; 13] = [
    "secrets in the environment",
    "environment of other processes",
    "open files of others",
    "port of a service on this machine",
    "asking the store",
    "abstract socket of the host",
    "sockets of container runtimes",
    "workspaces of other runs",
    "escape by dots",
    "escape by link",
    "writing outside",
    "setuid programs",
    "signals to others",
];

/// What there is to get on this machine.
struct Targets {
    dir: TempDir,
    listener: TcpListener,
    abstract_name: String,
    _sockets: [UnixListener; 2],
    sleeper: Child,
    store: String,
    api_server: (String, u16),
}

impl Drop for Targets {
    fn drop(&mut self) {
        self.sleeper.kill().unwrap();
        self.sleeper.wait().unwrap();
    }
}

fn call_numbers() -> Value {
    json!({
        "process_vm_readv": libc::SYS_process_vm_readv, "ptrace": libc::SYS_ptrace, "mount": libc::SYS_mount,
        "fsopen": libc::SYS_fsopen, "open_tree": libc::SYS_open_tree, "unshare": libc::SYS_unshare,
        "clone": libc::SYS_clone, "clone3": libc::SYS_clone3, "setns": libc::SYS_setns,
        "add_key": libc::SYS_add_key, "keyctl": libc::SYS_keyctl, "request_key": libc::SYS_request_key,
        "bpf": libc::SYS_bpf, "perf_event_open": libc::SYS_perf_event_open,
        "io_uring_setup": libc::SYS_io_uring_setup, "userfaultfd": libc::SYS_userfaultfd,
        "init_module": libc::SYS_init_module, "finit_module": libc::SYS_finit_module,
        "delete_module": libc::SYS_delete_module, "open_by_handle_at": libc::SYS_open_by_handle_at,
        "clock_settime": libc::SYS_clock_settime, "sethostname": libc::SYS_sethostname,
        "reboot": libc::SYS_reboot, "swapoff": libc::SYS_swapoff, "prlimit64": libc::SYS_prlimit64,
    })
}

impl Targets {
    /// Open to everybody on this machine.
    fn new(backend: &Backend) -> Self {
        let api_server = backend.traits.api_server.clone();
        let open = std::fs::Permissions::from_mode(0o777);
        let dir = tempfile::Builder::new()
            .permissions(open.clone())
            .tempdir()
            .unwrap();
        std::fs::write(dir.path().join("secret"), "top").unwrap();
        std::fs::set_permissions(dir.path().join("secret"), std::fs::Permissions::from_mode(0o666)).unwrap();
        let abstract_name = format!("agent-{}", dir.path().display());
        let abstract_address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let by_path = UnixListener::bind(dir.path().join("socket")).unwrap();
        std::fs::set_permissions(dir.path().join("socket"), open).unwrap();
        let sleeper = Command::new("sleep")
            .arg("600")
            .env("CANARY", CANARY)
            .stdin(Stdio::null())
            .spawn();
        Self {
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            _sockets: [UnixListener::bind_addr(&abstract_address).unwrap(), by_path],
            abstract_name,
            sleeper: sleeper.unwrap(),
            store: backend.store.clone(),
            api_server: api_server.unwrap_or((USUAL_API_SERVER.0.to_owned(), USUAL_API_SERVER.1)),
            dir,
        }
    }

    fn json(&self, only: &[&str]) -> String {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let targets = json!({
            "canary": CANARY, "pid": self.sleeper.id(), "port": self.listener.local_addr().unwrap().port(),
            "store": self.store, "api_server": [self.api_server.0, self.api_server.1],
            "abstract": self.abstract_name, "unix": path("socket"), "outside": path("secret"),
            "calls": call_numbers(), "only": only,
        });
        targets.to_string()
    }

    fn came(&self) -> usize {
        self.listener.set_nonblocking(true).unwrap();
        std::iter::from_fn(|| self.listener.accept().ok()).count()
    }

    /// The same program as a plain process.
    fn outside(&self) -> Vec<Value> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("targets.json"), self.json(&FREE_OUTSIDE)).unwrap();
        let python = Command::new("python3")
            .args(["-c", PROGRAM])
            .env("CANARY", CANARY)
            .current_dir(&dir)
            .output();
        lines(&String::from_utf8_lossy(&python.unwrap().stdout))
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn got(tried: &Value) -> bool {
    tried["got"] == true
}

fn names(list: &[Value], wanted: bool) -> Vec<String> {
    let chosen = list.iter().filter(|tried| got(tried) == wanted);
    chosen
        .map(|tried| format!("{}: {}", tried["name"], tried["said"]))
        .collect()
}

fn table(tried: &[Value], outside: &[Value]) {
    println!("| tried from inside a tool | came back | outside |\n| --- | --- | --- |");
    for one in tried {
        let free = outside
            .iter()
            .any(|other| other["name"] == one["name"] && got(other));
        let (name, said) = (one["name"].as_str().unwrap(), one["said"].as_str().unwrap());
        println!("| {name} | {said} | {} |", if free { "works" } else { "" });
    }
}

pub(crate) async fn what_is_forbidden_fails(backend: &Backend) {
    let case = backend.case();
    let targets = Targets::new(backend);
    let outside = targets.outside();
    assert_eq!(names(&outside, false), Vec::<String>::new(), "not even outside");
    assert_eq!(outside.len(), FREE_OUTSIDE.len());
    assert_eq!(targets.came(), 1);
    case.write("targets.json", &targets.json(&[])).await;
    let output = case.python(PROGRAM).await;
    assert_eq!(
        (output.exit_code, output.stderr.as_str()),
        (Some(0), ""),
        "{}",
        output.stdout
    );
    let tried = lines(&output.stdout);
    table(&tried, &outside);
    assert_eq!(names(&tried, true), Vec::<String>::new());
    assert!(tried.len() >= 40, "only {} were tried", tried.len());
    assert_eq!(targets.came(), 0, "somebody came");
    assert!(!output.stdout.contains(CANARY));
}
