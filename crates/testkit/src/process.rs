//! Our own built programs as children, with captured output.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::guard::{Ending, Guard, Guarded, Launch, tail};
use crate::poll::eventually_some;

/// Kept from the test's environment; everything else must be given, so that a developer's shell
/// cannot change a result.
const KEPT: [&str; 5] = [
    "HOME",
    "TMPDIR",
    "RUST_BACKTRACE",
    "LLVM_PROFILE_FILE",
    "LD_LIBRARY_PATH",
];

/// The path of a program built by this workspace, beside the running test executable.
///
/// # Panics
/// If it has not been built (Cargo builds the programs of *other* packages only when asked).
pub fn bin(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its executable");
    let mut dir = test.parent().expect("an executable lies in a directory");
    if dir.ends_with("deps") || dir.ends_with("examples") {
        dir = dir.parent().expect("target/<profile>/deps");
    }
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} does not exist: run `cargo build --workspace --bins` (same profile and target directory) first",
        path.display()
    );
    path
}

/// What to start.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Program {
    /// Usually of [`bin`].
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let kept = KEPT
            .iter()
            .filter_map(|&key| Some((key.to_owned(), std::env::var(key).ok()?)));
        Self {
            path: path.into(),
            args: Vec::new(),
            env: kept.collect(),
        }
    }

    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    #[must_use]
    pub fn env(mut self, key: &str, value: impl Into<String>) -> Self {
        self.env.push((key.to_owned(), value.into()));
        self
    }

    #[must_use]
    pub fn envs<K: Into<String>, V: Into<String>>(mut self, pairs: impl IntoIterator<Item = (K, V)>) -> Self {
        self.env
            .extend(pairs.into_iter().map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// Starts it in an empty directory of its own, as leader of its own process group.
    pub fn start(self) -> Process {
        assert!(self.path.is_file(), "{} does not exist", self.path.display());
        let dir = crate::dir::fresh("process");
        let mut guard = Guard::new(Ending::KillGroup, &dir);
        let child = Guarded::start(
            &Launch {
                program: self.path.clone(),
                args: self.args,
                env: self.env,
                clear_env: true,
                user: None,
                stdout: dir.join("stdout"),
                stderr: dir.join("stderr"),
                dir: dir.clone(),
            },
            &mut guard,
        );
        let name = self
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Process {
            child,
            guard,
            dir,
            name,
        }
    }
}

/// A started program. Dropped = its process group is killed and its directory removed; the end of its
/// output is printed if the test is panicking.
#[derive(Debug)]
pub struct Process {
    child: Guarded,
    guard: Guard,
    dir: PathBuf,
    name: String,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Its working directory; also holds `stdout` and `stderr`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// All it has written so far.
    pub fn stdout(&self) -> String {
        read(&self.dir.join("stdout"))
    }

    /// All it has written so far.
    pub fn stderr(&self) -> String {
        read(&self.dir.join("stderr"))
    }

    /// SIGTERM to the process alone.
    pub fn term(&mut self) {
        self.child.signal(Signal::SIGTERM);
    }

    /// SIGINT to the process alone.
    pub fn interrupt(&mut self) {
        self.child.signal(Signal::SIGINT);
    }

    /// SIGKILL to the process alone (what it started must notice by itself), and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.signal(Signal::SIGKILL);
        assert!(
            self.child.wait(Duration::from_secs(10)).is_some(),
            "{} survives SIGKILL",
            self.name
        );
    }

    /// SIGSTOP.
    pub fn pause(&mut self) {
        self.child.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn unpause(&mut self) {
        self.child.signal(Signal::SIGCONT);
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it still runs after `limit`.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let child = &mut self.child;
        let status = eventually_some(limit, || std::future::ready(child.try_wait())).await;
        status.unwrap_or_else(|| panic!("{} still runs after {limit:?}", self.name))
    }

    /// Waits until stdout or stderr contains `text`.
    ///
    /// # Panics
    /// If the text has not come after `limit`, or the program has ended without it.
    pub async fn wait_for_output(&mut self, text: &str, limit: Duration) {
        let found = eventually_some(limit, || {
            let over = self.ended().is_some();
            let seen = self.stdout().contains(text) || self.stderr().contains(text);
            std::future::ready((seen || over).then_some(seen))
        });
        let found = found.await;
        assert!(
            found == Some(true),
            "{} did not say {text:?}:\n{}",
            self.name,
            self.words()
        );
    }

    fn words(&self) -> String {
        format!(
            "stdout: {}\nstderr: {}",
            tail(&self.dir.join("stdout")),
            tail(&self.dir.join("stderr"))
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.end(&mut self.guard);
        if std::thread::panicking() {
            eprintln!("--- {} (pid {})\n{}", self.name, self.pid(), self.words());
        }
    }
}

fn read(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    String::from_utf8_lossy(&bytes).into_owned()
}
