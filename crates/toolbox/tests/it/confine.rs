//! Each test starts this binary again as [`child`], which confines itself and becomes the program under test.

use nix::libc;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;
use toolbox::confine::{Limits, Mark, Policy, exec, facts};

const POLICY: &str = "CONFINED_POLICY";
const ARGV: &str = "CONFINED_ARGV";

/// No test of its own: the process that the others start.
#[test]
fn child() {
    let (Ok(policy), Ok(argv)) = (std::env::var(POLICY), std::env::var(ARGV)) else {
        return;
    };
    let argv: Vec<String> = serde_json::from_str(&argv).unwrap();
    let head = [policy, "--".to_owned()];
    exec(head.into_iter().chain(argv).map(Into::into));
    std::process::exit(125);
}

struct Setup {
    dir: TempDir,
    /// Whom the programs run as: never root, who walks past many walls.
    owner: u32,
    policy: Policy,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["work", "outside"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("outside/secret"), "top").unwrap();
        let own = nix::unistd::geteuid();
        let owner = if own.is_root() { 64_998 } else { own.as_raw() };
        for path in ["", "work", "outside", "outside/secret"] {
            std::os::unix::fs::chown(dir.path().join(path), Some(owner), None).unwrap();
        }
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect::<Vec<_>>();
        let policy = Policy {
            writable: [
                paths(&["/dev/null", "/dev/shm", "/dev/not-there"]),
                vec![dir.path().join("work")],
            ]
            .concat(),
            readable: paths(&["/usr", "/bin", "/lib", "/lib64", "/etc", "/proc", "/dev"]),
            network: false,
            limits: Limits::default(),
            mark: Some(dir.path().join("mark")),
        };
        Self { dir, owner, policy }
    }

    fn mark(&self) -> Mark {
        Mark::read(&self.dir.path().join("mark"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, argv: &[&str]) -> Output {
        Command::new(std::env::current_exe().unwrap())
            .args([
                "confine::child",
                "--exact",
                "--nocapture",
                "--test-threads=1",
                "-q",
            ])
            .env(POLICY, serde_json::to_string(&self.policy).unwrap())
            .env(ARGV, serde_json::to_string(argv).unwrap())
            .env("HOME", self.path("work"))
            .current_dir(self.path("work"))
            .uid(self.owner)
            .gid(self.owner)
            .output()
            .unwrap()
    }

    /// What the program printed, after what the test harness prints before it.
    fn text(&self, argv: &[&str]) -> String {
        let output = self.run(argv);
        assert_eq!(self.mark(), Mark::Started, "{output:?}");
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        let said = out.strip_prefix("\nrunning 1 test\n").unwrap_or(&out);
        format!("{said}{err}")
    }

    fn sh(&self, command: &str) -> String {
        self.text(&["sh", "-c", command])
    }

    /// Prints what each call gave: 0 or the name of the error.
    fn calls(&self, calls: &[(&str, i64, &str)]) -> String {
        let list: Vec<String> = calls
            .iter()
            .map(|(name, number, arguments)| format!("('{name}', {number}, ({arguments}))"))
            .collect();
        let source = format!(
            "import ctypes, errno\nlibc = ctypes.CDLL(None, use_errno=True)\n\
             for name, number, arguments in [{}]:\n    \
             words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]\n    \
             gave = libc.syscall(ctypes.c_long(number), *words)\n    \
             print(name, 'done' if gave >= 0 else errno.errorcode[ctypes.get_errno()])\n",
            list.join(",")
        );
        self.text(&["python3", "-c", &source])
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn installed(program: &str) -> bool {
    ["/usr/bin", "/usr/local/bin", "/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(program).exists())
}

#[test]
fn only_listed_files_are_opened_and_only_writable_ones_changed() {
    let setup = Setup::new();
    let outside = setup.path("outside");
    let outside = outside.display();
    let said = setup.sh("echo one > a && mkdir d && mv a d/b && cat d/b && ln -s d/b link && cat link; cat /etc/hostname > /dev/null && echo read");
    assert_eq!(said, "one\none\nread\n");
    let said = setup.sh(&format!("cat {outside}/secret; echo x >> {outside}/secret; rm {outside}/secret; ln -s {outside}/secret l; cat l"));
    assert_eq!(said.matches("Permission denied").count(), 4, "{said}");
    assert_eq!(
        std::fs::read_to_string(setup.path("outside/secret")).unwrap(),
        "top"
    );
    let said = setup.sh(&format!(
        "ls {outside}; echo > /etc/x; echo > {}",
        setup.path("mark").display()
    ));
    assert!(
        said.starts_with("secret\n") && said.matches("Permission denied").count() == 2,
        "{said}"
    );
    assert_eq!(setup.mark(), Mark::Started);
}

#[test]
fn calls_that_lead_around_the_walls_are_refused_by_name() {
    let setup = Setup::new();
    let calls = [
        ("ptrace", libc::SYS_ptrace, "0, 0, 0, 0"),
        ("process_vm_readv", libc::SYS_process_vm_readv, "1, 0, 0, 0, 0, 0"),
        ("unshare user", libc::SYS_unshare, "0x10000000,"),
        ("unshare net", libc::SYS_unshare, "0x40000000,"),
        ("unshare time", libc::SYS_unshare, "0x80,"),
        ("clone user", libc::SYS_clone, "0x10000011, 0, 0, 0, 0"),
        ("setns", libc::SYS_setns, "0, 0"),
        ("mount", libc::SYS_mount, "0, 0, 0, 0, 0"),
        ("open_tree", libc::SYS_open_tree, "0, 0, 0"),
        ("chroot", libc::SYS_chroot, "0,"),
        ("keyctl", libc::SYS_keyctl, "0, -3, 0"),
        ("add_key", libc::SYS_add_key, "0, 0, 0, 0, 0"),
        ("bpf", libc::SYS_bpf, "0, 0, 0"),
        ("perf", libc::SYS_perf_event_open, "0, 0, 0, 0, 0"),
        ("userfaultfd", libc::SYS_userfaultfd, "1,"),
        ("io_uring", libc::SYS_io_uring_setup, "8, 0"),
        ("handle", libc::SYS_open_by_handle_at, "0, 0, 0"),
        ("module", libc::SYS_init_module, "0, 0, 0"),
        ("reboot", libc::SYS_reboot, "0, 0, 0, 0"),
        ("settime", libc::SYS_clock_settime, "0, 0"),
        ("personality", libc::SYS_personality, "0x40000,"),
        ("device", libc::SYS_mknodat, "-100, b'null', 0o20666, 0x103"),
        ("kill first", libc::SYS_kill, "1, 0"),
        ("type", libc::SYS_ioctl, "0, 0x5412, 0"),
        (
            "limits of others",
            libc::SYS_prlimit64,
            "1, 7, b'0123456789abcdef', 0",
        ),
    ];
    for line in setup.calls(&calls).lines() {
        assert!(line.ends_with(" EPERM"), "{line}");
    }
    let said = setup.calls(&[
        ("clone3", libc::SYS_clone3, "0, 0"),
        ("x32", 0x4000_0000 + 101, "0, 0, 0, 0"),
        ("pipe", libc::SYS_mknodat, "-100, b'pipe', 0o10666, 0"),
        ("ask", libc::SYS_personality, "0xffffffff,"),
        ("plain unshare", libc::SYS_unshare, "0x200,"),
    ]);
    assert_eq!(
        said,
        "clone3 ENOSYS\nx32 ENOSYS\npipe done\nask done\nplain unshare done\n"
    );
}

#[test]
fn sockets_are_of_the_allowed_families() {
    let mut setup = Setup::new();
    let calls: Vec<(String, i64, String)> = [
        ("unix", libc::AF_UNIX),
        ("inet", libc::AF_INET),
        ("inet6", libc::AF_INET6),
        ("netlink", libc::AF_NETLINK),
        ("packet", libc::AF_PACKET),
        ("alg", libc::AF_ALG),
        ("vsock", libc::AF_VSOCK),
    ]
    .into_iter()
    .map(|(name, family)| (name.to_owned(), libc::SYS_socket, format!("{family}, 1, 0")))
    .collect();
    let calls: Vec<_> = calls
        .iter()
        .map(|(n, c, a)| (n.as_str(), *c, a.as_str()))
        .collect();
    let refused = |said: &str| {
        let names = said.lines().filter_map(|line| line.strip_suffix(" EPERM"));
        names.map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        refused(&setup.calls(&calls)),
        "inet inet6 netlink packet alg vsock"
    );
    setup.policy.network = true;
    assert_eq!(refused(&setup.calls(&calls)), "netlink packet alg vsock");
}

#[test]
fn limits_hold_and_cannot_be_raised() {
    let mut setup = Setup::new();
    setup.policy.limits = Limits {
        data_bytes: Some(200 << 20),
        processes: Some(4000),
        cpu_seconds: Some(9),
        file_bytes: Some(1000),
        open_files: Some(33),
    };
    let said =
        setup.sh("ulimit -n; ulimit -t; ulimit -c; ulimit -d; head -c 2000 /dev/zero > big; wc -c < big");
    assert!(said.starts_with("33\n9\n0\n204800\n1000\n"), "{said}");
    let said = setup.text(&["python3", "-c", "x = bytearray(300 << 20)"]);
    assert!(said.contains("MemoryError"), "{said}");
    let said = setup.sh("ulimit -n 34");
    assert!(said.contains("ermitted"), "{said}");
}

#[test]
fn nothing_of_the_starting_process_is_open_or_readable() {
    let setup = Setup::new();
    // A copy is inherited, unlike what the standard library opens.
    let secret = std::fs::File::open(setup.path("outside/secret")).unwrap();
    let copy = nix::unistd::dup(&secret).unwrap();
    let said = setup.sh("ls /proc/self/fd");
    assert_eq!(said, "0\n1\n2\n3\n", "3 is the listing's own");
    drop(copy);
    let mut other = Command::new("sleep").arg("60").uid(setup.owner).spawn().unwrap();
    let own = other.id();
    let said = setup.sh(&format!(
        "cat /proc/{own}/environ; cat /proc/{own}/maps; cat /proc/{own}/fd/0; ls -d /proc/{own}/root/usr"
    ));
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(said.matches("ermission denied").count(), 4, "{said}");
    assert_eq!(
        setup.sh("grep -E 'NoNewPrivs|Seccomp:' /proc/self/status"),
        "NoNewPrivs:\t1\nSeccomp:\t2\n"
    );
}

#[test]
fn processes_and_abstract_sockets_outside_are_out_of_reach_where_the_kernel_can() {
    if facts().landlock < 6 {
        return;
    }
    let setup = Setup::new();
    let mut outside = Command::new("sleep").arg("60").uid(setup.owner).spawn().unwrap();
    let said = setup.sh(&format!(
        "kill -9 {}; sleep 60 & kill $! && wait; echo own",
        outside.id()
    ));
    assert!(said.contains("ermitted") && said.contains("own\n"), "{said}");
    assert_eq!(outside.try_wait().unwrap(), None);
    outside.kill().unwrap();
    outside.wait().unwrap();
    let name = format!("confine-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let connect = format!("import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}')");
    let said = setup.text(&["python3", "-c", &connect]);
    assert!(said.contains("PermissionError"), "{said}");
    drop(listener);
}

#[test]
fn a_start_that_fails_says_how_far_it_came() {
    let mut setup = Setup::new();
    if nix::unistd::geteuid().is_root() {
        let owner = std::mem::replace(&mut setup.owner, 0);
        setup.run(&["true"]);
        assert!(matches!(setup.mark(), Mark::Refused(reason) if reason.contains("capabilities")));
        std::fs::remove_file(setup.path("mark")).unwrap();
        setup.owner = owner;
    }
    let output = setup.run(&["/no/such/program"]);
    assert!(matches!(setup.mark(), Mark::NotExecuted(reason) if reason.contains("No such file")));
    assert_eq!(output.status.code(), Some(125));
    setup.policy.limits.open_files = Some(1 << 40);
    let output = setup.run(&["true"]);
    assert!(
        matches!(setup.mark(), Mark::Refused(reason) if reason.contains("open files")),
        "{output:?}"
    );
    setup.policy.mark = Some(setup.path("missing/mark"));
    assert_eq!(setup.run(&["true"]).status.code(), Some(125));
}

#[test]
fn interpreters_and_tools_that_are_installed_work() {
    let setup = Setup::new();
    let python = "import threading, subprocess, multiprocessing, tempfile, asyncio, sqlite3\n\
        t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n\
        with multiprocessing.get_context('fork').Pool(2) as pool: print(sum(pool.map(abs, [-1, -2])))\n\
        print(subprocess.run(['echo', 'child'], capture_output=True, text=True).stdout, end='')\n\
        asyncio.run(asyncio.sleep(0)); print(sqlite3.connect('x.db').execute('select 1').fetchone())";
    std::fs::create_dir(setup.path("work/tmp")).unwrap();
    let mut missing = vec![];
    let git = "git init -q r && cd r && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && git log --format=%s";
    let node = "const w = require('worker_threads'); require('fs').writeFileSync('n', '1'); \
        new w.Worker('require(\"worker_threads\").parentPort.postMessage(41)', {eval: true}).on('message', m => console.log(m + 1))";
    let programs: [(&str, &[&str], &str); 5] = [
        ("python3", &["python3", "-c", python], "thread\n3\nchild\n(1,)\n"),
        ("git", &["sh", "-c", git], "x\n"),
        ("node", &["node", "-e", node], "42\n"),
        (
            "ruby",
            &["ruby", "-e", "puts Thread.new { `echo 42` }.value"],
            "42\n",
        ),
        ("perl", &["perl", "-e", "print `echo 42`"], "42\n"),
    ];
    for (name, argv, expected) in programs {
        if !installed(name) {
            missing.push(name);
            continue;
        }
        assert_eq!(setup.text(argv), expected, "{name}");
    }
    assert!(!missing.contains(&"python3"), "python3 is not installed");
}
