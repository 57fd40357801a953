//! `agentctl`, from `up` to `down`: a person's whole way, without any setting.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use testkit::{bin, eventually};

const PROMPT: &str = "List files and create a test.txt file";
/// Processes that were told to go are gone within this time after `down` has returned.
const GONE: Duration = Duration::from_secs(5);

/// One home directory; dropped = taken down.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    fn path(&self) -> String {
        self.dir.path().join("home").to_str().unwrap().to_owned()
    }

    /// Any command, with an environment of its own.
    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(bin("agentctl"));
        command.env_clear().args(["--home", &self.path()]).args(args);
        for name in ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.current_dir(self.dir.path()).output().unwrap()
    }

    /// A command that must succeed; its stdout.
    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(
            output.status.code(),
            Some(0),
            "{args:?}: {out}\n{err}\n{}",
            self.log()
        );
        out
    }

    fn log(&self) -> String {
        let logs = Path::new(&self.path()).join("logs/agentctl.log");
        std::fs::read_to_string(logs).unwrap_or_default()
    }

    fn up(&self) -> String {
        self.ok(&["up", "--detach"])
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let output = self.run(&["down"]);
        if !output.status.success() {
            eprintln!("down: {}", text(&output.stderr));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Processes whose command line, directory or environment names this home.
fn processes_of(home: &Path) -> Vec<String> {
    let needle = home.to_str().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == std::process::id().to_string() || !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let cwd = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let line = text(&line).replace('\0', " ");
        if line.contains(needle) || text(&environment).contains(needle) || cwd.starts_with(home) {
            found.push(format!("{name}: {line}"));
        }
    }
    found
}

fn value(env: &str, name: &str) -> String {
    let line = env
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name}=")));
    let line = line.unwrap_or_else(|| panic!("no {name} in {env}"));
    line.trim_matches('\'').to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_starts_the_system_and_one_more_runs_a_prompt_to_its_end() {
    let home = Home::new();
    let shown = home.up();
    for words in ["API", "Token", "curl -N", "agentctl"] {
        assert!(shown.contains(words), "{words} is not in {shown}");
    }
    let begun = Instant::now();
    home.up();
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "the second `up` took {:?}",
        begun.elapsed()
    );
    assert!(home.ok(&["status"]).contains("api"));
    the_env_file_leads_to_the_system(&home).await;
    let run = a_run_by_commands(&home);
    failures_have_their_exit_codes(&home);

    home.ok(&["down"]);
    let dir = home.dir.path().to_owned();
    let gone = || async { processes_of(&dir).is_empty() };
    if tokio::time::timeout(GONE, eventually(GONE * 2, gone))
        .await
        .is_err()
    {
        panic!("left behind: {:#?}", processes_of(&dir));
    }
    home.ok(&["down"]);

    // The data survives, and a second start is quick.
    let begun = Instant::now();
    home.up();
    let took = begun.elapsed();
    assert!(home.ok(&["runs"]).contains("completed"));
    assert!(home.ok(&["files", &run]).contains("test.txt"));
    assert!(took < Duration::from_secs(20), "the start took {took:?}");
}

async fn the_env_file_leads_to_the_system(home: &Home) {
    let env = home.ok(&["env"]);
    let on_disk = std::fs::read_to_string(Path::new(&home.path()).join("env")).unwrap();
    for name in [
        "API_URL",
        "TOKEN",
        "DATABASE_URL",
        "REDIS_URL",
        "S3_ENDPOINT",
        "S3_ACCESS_KEY",
        "S3_SECRET_KEY",
        "S3_WORKSPACE_BUCKET",
    ] {
        assert_eq!(value(&env, name), value(&on_disk, name));
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = value(&env, "API_URL");
    let ready: serde_json::Value = client
        .get(format!("{url}/ready"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let fine = serde_json::json!({"postgres": "ok", "redis": "ok", "s3": "ok", "model": "ok"});
    assert_eq!(ready["checks"], fine);
    let body = serde_json::json!({"action": "list"});
    let sent = client
        .post(format!("{url}/agent/execute"))
        .bearer_auth(value(&env, "TOKEN"));
    assert_eq!(sent.json(&body).send().await.unwrap().status(), 200);
}

/// The id of a completed run.
fn a_run_by_commands(home: &Home) -> String {
    let output = home.run(&["run", PROMPT]);
    let all = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{all}");
    for words in ["completed", "test.txt", "steps", "tokens"] {
        assert!(all.contains(words), "{words} is not in {all}");
    }
    assert!(!all.contains('\x1b'), "colours in a pipe: {all}");
    let runs = home.ok(&["runs", "--json"]);
    let run: serde_json::Value = serde_json::from_str(runs.lines().next().unwrap()).unwrap();
    let id = run["id"].as_str().unwrap();
    assert!(home.ok(&["runs"]).contains("completed"));
    assert!(home.ok(&["files", id, "ls"]).contains("test.txt"));
    let file = home.run(&["files", "last", "get", "test.txt"]);
    assert_eq!(file.status.code(), Some(0));
    let log = home.ok(&["logs", id, "--json"]);
    let seqs: Vec<i64> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_i64())
        .collect();
    assert_eq!(seqs, (1..=seqs.len() as i64).collect::<Vec<_>>());
    let rest = home.ok(&["logs", id, "-f", "--after", "3", "--json"]);
    assert_eq!(
        rest.lines().filter(|line| line.contains("\"seq\"")).count(),
        seqs.len() - 3
    );
    let queue = home.ok(&["queue", "stats", "--json"]);
    let queue: serde_json::Value = serde_json::from_str(&queue).unwrap();
    assert_eq!((&queue["pending"], &queue["processing"]), (&0.into(), &0.into()));
    let pulled = home.dir.path().join("pulled");
    home.ok(&["files", id, "pull", pulled.to_str().unwrap()]);
    assert_eq!(std::fs::read(pulled.join("test.txt")).unwrap(), file.stdout);
    id.to_owned()
}

fn failures_have_their_exit_codes(home: &Home) {
    let failing = r#"{"script":[{"type":"error","status":400,"attempts":9}]}"#;
    assert_eq!(home.run(&["run", failing]).status.code(), Some(1));
    let asking = r#"{"script":[{"type":"request_input","message":"What?"}]}"#;
    assert_eq!(home.run(&["run", asking]).status.code(), Some(3));
    home.ok(&["stop", "last"]);
    assert_eq!(
        home.run(&["logs", "7a5f0000-0000-4000-8000-000000000000"])
            .status
            .code(),
        Some(1)
    );
    assert_eq!(home.run(&["fly"]).status.code(), Some(2));
    assert!(home.ok(&["queue", "dead"]).contains("permanent_error"));
}

#[test]
fn without_a_system_the_commands_say_how_to_start_one() {
    let home = Home::new();
    let output = home.run(&["runs"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("agentctl up"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(home.run(&["status"]).status.code(), Some(4));
}
