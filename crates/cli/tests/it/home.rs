//! A home directory under test: starts, asks and ends a system; whatever is left is ended with it.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use testkit::{bin, eventually};

/// Longest wait for anything a person would call "at once" on a busy machine.
pub(crate) const SOON: Duration = Duration::from_mins(1);

pub(crate) struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    /// An empty directory whose name is awkward on purpose; entered by other users, as Postgres needs as root.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("agent ctl's ").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// `agentctl --home HOME ARGS`, untouched by the settings of whoever runs the tests.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(bin("agentctl"));
        command
            .current_dir(self.dir.path())
            .arg("--home")
            .arg(self.path())
            .args(args)
            .stdin(Stdio::null());
        let cleared = [
            "DATABASE_URL",
            "REDIS_URL",
            "S3_ENDPOINT",
            "JWT_SECRET",
            "TOKEN",
            "API_URL",
            "AGENT_HOME",
            "LLM_PRIMARY_PROVIDER",
            "ANTHROPIC_API_KEY",
            "OPENAI_API_KEY",
            "OPENAI_BASE_URL",
            "QUEUE_PREFIX",
        ];
        for name in cleared {
            command.env_remove(name);
        }
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed; its stdout.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts in the background on ports of its own choice.
    pub(crate) fn up(&self) -> String {
        self.ok(&["up", "--detach"])
    }

    pub(crate) fn state(&self) -> Value {
        let text = std::fs::read_to_string(self.path().join("state.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    pub(crate) fn supervisor(&self) -> Option<i64> {
        self.state()["supervisor"]["pid"].as_i64()
    }

    pub(crate) fn child(&self, name: &str) -> Option<i64> {
        self.state()["children"][name]["pid"].as_i64()
    }

    /// Every process whose command line or environment names this home.
    pub(crate) fn processes(&self) -> Vec<i64> {
        let needle = self.path().to_string_lossy().into_owned();
        let pids = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i64>().ok());
        pids.filter(|pid| mentions(*pid, &needle)).collect()
    }

    pub(crate) async fn is_empty_soon(&self) {
        eventually(SOON, || async { self.processes().is_empty() }).await;
    }
}

/// Postgres names the home in its arguments, the programs in their logs (standard output).
fn mentions(pid: i64, needle: &str) -> bool {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let holds = |name: &str| {
        std::fs::read(dir.join(name)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(needle))
    };
    let leads = |path: &Path| std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains(needle));
    holds("cmdline") || leads(&dir.join("fd/1")) || leads(&dir.join("cwd"))
}

impl Drop for Home {
    fn drop(&mut self) {
        // A test that failed half-way may have left a system.
        if self.path().join("state.json").is_file() {
            self.run(&["down"]);
        }
    }
}

pub(crate) fn kill(pid: i64, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status()
        .unwrap();
    assert!(status.success(), "kill {signal} {pid}");
}
