//! Children that cannot outlive the test process, however it ends (pass, panic, abort, SIGKILL).
//!
//! Two small shells do it, without `unsafe` and on every Unix:
//! - the *guard* reads lines from a pipe whose only writer is the test process. Each line names what
//!   to end: `123`, the group `-123`, `+123` to let it end by itself, or `0` for nothing. When the pipe
//!   closes, it ends the last one named, waits for it, and removes the directory.
//! - the *launcher* waits for the word `go` before it becomes the server with `exec` (same pid). It is
//!   sent only after the guard knows the pid, so there is no moment in which a server runs unguarded.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// `$1` = name of the ending signal, `$2` = directory to remove.
const GUARD: &str = r#"
trap '' INT TERM HUP QUIT
alive() {
  kill -s 0 -- "$1" 2>/dev/null || return 1
  if read -r stat <"/proc/${1#-}/stat"; then case $stat in *') Z '*) return 1 ;; esac; fi 2>/dev/null
  return 0
}
target=0
while read -r line; do target=$line; done
if [ "$target" != 0 ]; then
  case $target in
  +*) target=${target#+} ;;
  *)
    kill -s "$1" -- "$target" 2>/dev/null
    kill -s CONT -- "$target" 2>/dev/null
    ;;
  esac
  tries=0
  while alive "$target" && [ "$tries" -lt 160 ]; do tries=$((tries + 1)); sleep 0.05; done
  kill -s KILL -- "$target" 2>/dev/null
fi
rm -rf -- "$2"
"#;

const LAUNCHER: &str = r#"read -r go && exec "$0" "$@" </dev/null"#;

/// How a child is ended when nobody asked it nicely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// SIGKILL to its whole process group.
    KillGroup,
    /// SIGQUIT to the process alone; Postgres then ends its own children and frees shared memory.
    Quit,
    /// It is waited for: a short task that would leave more behind if it were stopped half-way.
    Itself,
}

/// The shell that cleans up after us. Dropped = asked to clean up, and waited for.
#[derive(Debug)]
pub(crate) struct Guard {
    shell: Child,
    pipe: Option<ChildStdin>,
    ending: Ending,
}

impl Guard {
    /// Makes `dir`, which is removed at the end, after the child is gone.
    pub(crate) fn new(ending: Ending, dir: &Path) -> Self {
        assert!(!dir.exists(), "{} is not ours", dir.display());
        let signal = if ending == Ending::Quit { "QUIT" } else { "KILL" };
        let mut shell = Command::new("sh")
            .args(["-c", GUARD, "testkit-guard", signal])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .expect("sh must start");
        let pipe = shell.stdin.take();
        let made = std::fs::DirBuilder::new().mode(0o700).create(dir);
        made.unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
        Self { shell, pipe, ending }
    }

    fn tell(&mut self, target: &str) {
        let pipe = self.pipe.as_mut().expect("the pipe is only taken on drop");
        writeln!(pipe, "{target}").expect("the guard shell died");
    }

    fn watch(&mut self, pid: u32, ending: Ending) {
        match ending {
            Ending::Itself => self.tell(&format!("+{pid}")),
            Ending::KillGroup => self.tell(&format!("-{pid}")),
            Ending::Quit => self.tell(&pid.to_string()),
        }
    }

    fn forget(&mut self) {
        self.tell("0");
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.take());
        if let Err(error) = self.shell.wait() {
            eprintln!("testkit: guard shell could not be waited for: {error}");
        }
    }
}

/// What to start; `user` drops root's rights (uid, gid).
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) clear_env: bool,
    pub(crate) user: Option<(u32, u32)>,
    pub(crate) stdout: PathBuf,
    pub(crate) stderr: PathBuf,
    pub(crate) dir: PathBuf,
}

/// A running (or ended, not yet reaped) child under a [`Guard`].
#[derive(Debug)]
pub(crate) struct Guarded {
    child: Child,
    status: Option<ExitStatus>,
}

impl Guarded {
    pub(crate) fn start(launch: &Launch, guard: &mut Guard) -> Self {
        let ending = guard.ending;
        Self::start_with(launch, guard, ending)
    }

    /// Runs a short task to its end, which also comes if the test process dies meanwhile.
    pub(crate) fn run(launch: &Launch, guard: &mut Guard) -> ExitStatus {
        let mut task = Self::start_with(launch, guard, Ending::Itself);
        let status = task.wait(TASK_LIMIT);
        guard.forget();
        status.unwrap_or_else(|| panic!("{} does not end", launch.program.display()))
    }

    fn start_with(launch: &Launch, guard: &mut Guard, ending: Ending) -> Self {
        let append = |path: &Path| {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .unwrap_or_else(|error| {
                    panic!("cannot open {}: {error}", path.display());
                })
        };
        let mut command = Command::new("sh");
        if launch.clear_env {
            command.env_clear();
            if let Some(path) = std::env::var_os("PATH") {
                command.env("PATH", path);
            }
        }
        command
            .args(["-c", LAUNCHER])
            .arg(&launch.program)
            .args(&launch.args)
            .envs(launch.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(append(&launch.stdout))
            .stderr(append(&launch.stderr))
            .current_dir(&launch.dir)
            .process_group(0);
        if let Some((uid, gid)) = launch.user {
            command.uid(uid).gid(gid);
        }
        let mut child = command.spawn().expect("sh must start");
        guard.watch(child.id(), ending);
        let mut go = child.stdin.take().expect("stdin is piped");
        go.write_all(b"go\n").expect("the launcher shell died");
        Self { child, status: None }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends to the process alone; a child that has already ended is no error.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.try_wait().is_some() {
            return;
        }
        if let Err(error) = kill(Pid::from_raw(self.child.id() as i32), signal) {
            assert_eq!(
                error,
                nix::errno::Errno::ESRCH,
                "cannot signal {}",
                self.child.id()
            );
        }
    }

    /// The exit status if it has ended.
    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("own child can be waited for");
        }
        self.status
    }

    /// Waits at most `limit`; `None` = still running.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.try_wait() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(POLL);
        }
    }

    /// Ends it now and reaps it. The guard forgets the pid before that, so it can never hit a re-used one.
    pub(crate) fn end(&mut self, guard: &mut Guard) {
        match guard.ending {
            Ending::KillGroup => self.signal_group(Signal::SIGKILL),
            Ending::Quit => self.signal(Signal::SIGQUIT),
            Ending::Itself => {}
        }
        self.signal(Signal::SIGCONT);
        guard.forget();
        if self.wait(END_LIMIT).is_none() {
            self.signal(Signal::SIGKILL);
        }
        assert!(self.wait(END_LIMIT).is_some(), "pid {} does not die", self.pid());
    }

    fn signal_group(&mut self, signal: Signal) {
        if let Err(error) = nix::sys::signal::killpg(Pid::from_raw(self.child.id() as i32), signal) {
            assert_eq!(
                error,
                nix::errno::Errno::ESRCH,
                "cannot signal group {}",
                self.child.id()
            );
        }
    }
}

const POLL: Duration = Duration::from_millis(2);
/// How long a task may take to end by itself.
const TASK_LIMIT: Duration = Duration::from_mins(1);
/// How long a server may take to go after its ending signal.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How much of a log a panic message shows: how the program started is there even when it was asked much since.
const FIRST_LINES: usize = 15;
const LAST_LINES: usize = 25;

/// The first and the last lines of a log, for a panic message.
pub(crate) fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= FIRST_LINES + LAST_LINES {
        return lines.join("\n");
    }
    let left_out = lines.len() - FIRST_LINES - LAST_LINES;
    let (first, last) = (&lines[..FIRST_LINES], &lines[lines.len() - LAST_LINES..]);
    format!("{}\n… {left_out} lines …\n{}", first.join("\n"), last.join("\n"))
}

/// Finds `name` in the directories given, then in PATH.
pub(crate) fn find(name: &str, first: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    first
        .iter()
        .cloned()
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
