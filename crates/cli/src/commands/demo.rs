//! `agentctl demo`: one run that shows what this is, in plain words, and checks that all of it held. It needs no key.
//!
//! The scripted agent writes a program and data, runs it in the sandbox, its worker is killed in the middle of that, another one
//! goes on, a person (this command) allows one call, and the run leaves a report and a chart. Then it is looked at from
//! outside: the turns, the steps, the files. The exit code is 0 only when everything was as it should be.

use crate::client::Api;
use crate::console::{Console, Style, harmless};
use crate::failure::{Code, Failure};
use crate::objects::{Bucket, S3Settings};
use crate::place::Place;
use crate::up::home::Home;
use crate::up::process::ProcessId;
use domain::UserId;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::time::Instant;
use workspace::run_prefix;

/// Writes `sales.csv`; the model's first file.
const DATA: &str = "month,sales\nJan,12\nFeb,19\nMar,7\nApr,26\nMay,31\nJun,22\n";
/// Reads it, takes its time, writes a report and a chart with the standard library alone.
const PROGRAM: &str = include_str!("demo/chart.py");
/// The first bytes of a PNG image.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
/// A run on a busy machine, with a worker that is lost on the way.
const PATIENCE: Duration = Duration::from_mins(3);
const POLL: Duration = Duration::from_millis(150);
/// In the name of the model that needs no key, as `up` tells it.
const OFFLINE: &str = "scripted";
/// Name of the worker that is killed, as `up` names it.
const WORKER: &str = "worker-1";

/// A demo at work.
struct Demo {
    console: Console,
    api: Api,
    place: Place,
    run: String,
    act: u32,
}

/// `agentctl demo`: in the system that runs, else in one of its own that is gone afterwards.
pub async fn demo(console: Console, home: PathBuf) -> Result<Code, Failure> {
    let state = Home::open(&home).and_then(|home| home.state().ok());
    if state.is_some_and(|state| state.ready && state.workers > 0 && state.model.contains(OFFLINE)) {
        console.note(&format!("using the system in {}", home.display()));
        let run = show(console, &home).await?;
        let home = home.display();
        console.note(&format!("every event of it: agentctl --home {home} logs {run}"));
        return Ok(Code::Ok);
    }
    let home = std::env::temp_dir().join(format!("agentctl-demo-{}", std::process::id()));
    console.note("no system runs here: starting one of its own (database, queue, store, API, a worker)");
    ourselves(&home, &["up", "--detach"], Stdio::inherit())?;
    let shown = show(console, &home).await;
    // Not told: it says that the data stays, and here it does not.
    ourselves(&home, &["down"], Stdio::piped())?;
    // What is kept of a failure is its logs.
    if shown.is_ok() {
        std::fs::remove_dir_all(&home).ok();
        console.note("the system of the demo is stopped and gone");
    } else {
        console.note(&format!("its logs are in {}", home.join("logs").display()));
    }
    shown.map(|_| Code::Ok)
}

/// This program with another command, offline. `told` is where its progress goes.
fn ourselves(home: &Path, args: &[&str], told: Stdio) -> Result<(), Failure> {
    let ended = std::process::Command::new(std::env::current_exe()?)
        .arg("--home")
        .arg(home)
        .args(args)
        .env("LLM_PRIMARY_PROVIDER", "scripted")
        .env_remove("DATABASE_URL")
        .env_remove("REDIS_URL")
        .env_remove("S3_ENDPOINT")
        .stdout(Stdio::null())
        .stderr(told)
        .output()?;
    if ended.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&ended.stderr);
    let cause = format!("{} {}", ended.status, words.trim());
    Err(Failure::new(format!("`agentctl {}` failed", args.join(" "))).because(cause.trim_end().to_owned()))
}

/// Gives the run.
async fn show(console: Console, home: &Path) -> Result<String, Failure> {
    let place = Place::find(Some(home))?;
    let api = Api::at(&place)?;
    let mut demo = Demo {
        console,
        run: String::new(),
        api,
        place,
        act: 0,
    };
    demo.begin().await?;
    demo.kill_the_worker(home).await?;
    demo.approve().await?;
    demo.ends_well().await?;
    demo.look_at_the_files().await?;
    let words = "All of it held: nothing was lost, nothing was done twice.";
    console.out(&console.paint(Style::Green, words))?;
    Ok(demo.run)
}

/// What the model answers, turn by turn.
fn script() -> String {
    let tool = |name: &str, input: Value| json!({"type": "tool", "tool_name": name, "tool_input": input});
    json!({"script": [
        tool("file_write", json!({"filepath": "sales.csv", "content": DATA})),
        tool("code", json!({"language": "python", "code": PROGRAM})),
        tool("shell", json!({"command": "cp report.md published.md && sha256sum chart.png > chart.sha256"})),
        {"type": "task_complete", "message": "The report and the chart are ready."},
    ]})
    .to_string()
}

impl Demo {
    fn say(&mut self, text: &str) -> Result<(), Failure> {
        self.act += 1;
        let number = self.console.paint(Style::Cyan, &format!("{}.", self.act));
        self.console.out(&format!("{number} {text}"))
    }

    async fn begin(&mut self) -> Result<(), Failure> {
        self.say("An agent is asked for a report and a chart of six months of sales. Publishing them with the shell needs a yes.")?;
        let policy = json!({"tools": {"shell": "ask"}});
        let fields = json!({"prompt": script(), "policy": policy});
        let made = self.api.execute("create", fields).await?;
        super::runs::text(&made, "run_id")?.clone_into(&mut self.run);
        self.api.execute("start", json!({"run_id": self.run})).await?;
        Ok(())
    }

    /// Polls the run until something is so.
    async fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.api.status(&self.run, &["steps", "artifacts", "logs"]).await;
            match answer {
                Ok(answer) if is_so(&answer) => return Ok(answer),
                Ok(answer) if Instant::now() > deadline || has_failed(&answer) => {
                    let status = answer["run"]["status"].as_str().unwrap_or_default();
                    let error = answer["run"]["error_message"]
                        .as_str()
                        .unwrap_or("it took too long");
                    return Err(Failure::new(format!("the demo stopped before {what}"))
                        .because(harmless(&format!("the run is {status}: {error}")))
                        .fix("see `agentctl doctor`"));
                }
                Err(failure) if Instant::now() > deadline => return Err(failure),
                _ => tokio::time::sleep(POLL).await,
            }
        }
    }

    async fn kill_the_worker(&mut self, home: &Path) -> Result<(), Failure> {
        let runs = |answer: &Value| step(answer, "code").is_some_and(|step| step["status"] == "running");
        self.until("its program ran", runs).await?;
        let state = Home::open(home).map(|home| home.state()).transpose()?;
        let worker: Option<ProcessId> = state.and_then(|state| state.children.get(WORKER).cloned());
        let worker = worker.ok_or_else(|| Failure::new("the system has no worker"))?;
        worker
            .signal(Signal::SIGKILL)
            .map_err(|errno| Failure::new("cannot kill the worker").why(&errno))?;
        self.say("It planned, wrote the data, and its program runs in the sandbox. Now its worker is killed, in the middle.")
    }

    async fn approve(&mut self) -> Result<(), Failure> {
        let waits = |answer: &Value| answer["run"]["status"] == "waiting_user";
        self.until("the call that needs a yes", waits).await?;
        self.say("Another worker took over and ran the program to its end. The next call needs a yes, and the run waits: no worker is held.")?;
        let asked = self.api.interrupts(&self.run, false).await?;
        let one = &asked["interrupts"][0];
        let message = one["message"].as_str().unwrap_or("a call");
        self.say(&format!(
            "It asks: {} This command says yes, for exactly this call.",
            harmless(message)
        ))?;
        let id = super::runs::text(one, "id")?;
        let decision = json!({"decision": "approve", "hash": one["hash"]});
        self.api.decide(&self.run, id, &decision).await?;
        Ok(())
    }

    async fn ends_well(&mut self) -> Result<(), Failure> {
        let done = |answer: &Value| answer["run"]["status"] == "completed";
        let answer = self.until("its end", done).await?;
        let steps = answer["steps"].as_array().cloned().unwrap_or_default();
        let names: Vec<&str> = steps
            .iter()
            .filter_map(|step| step["tool_name"].as_str())
            .collect();
        let all_good = steps.iter().all(|step| step["status"] == "completed");
        check(
            all_good && names == ["file_write", "code", "shell"],
            "three steps, each settled once",
        )?;
        let logs = answer["logs"].as_array().cloned().unwrap_or_default();
        check(
            logs.iter().any(|log| log["metadata"]["event"] == "executor_lost"),
            "the loss of the worker in the log",
        )?;
        let mut seqs: Vec<i64> = logs.iter().filter_map(|log| log["seq"].as_i64()).collect();
        seqs.sort_unstable();
        check(
            seqs.iter().copied().eq(1..=seqs.len() as i64),
            "a log without gaps",
        )?;
        self.say("It is completed: three steps, each settled once, and a log without gaps that tells of the lost worker.")
    }

    async fn look_at_the_files(&mut self) -> Result<(), Failure> {
        let answer = self.api.status(&self.run, &["artifacts"]).await?;
        let user = UserId::from(answer["run"]["user_id"].as_str().unwrap_or_default());
        let run = self
            .run
            .parse()
            .map_err(|_| Failure::new("the API's answer names no run"))?;
        let prefix = run_prefix(&user, run);
        let bucket = Bucket::new(&S3Settings::of(&self.place)?);
        let chart = bucket.get(&format!("{prefix}chart.png")).await?;
        check(chart.starts_with(PNG), "an image")?;
        let report = bucket.get(&format!("{prefix}published.md")).await?;
        let report = String::from_utf8_lossy(&report).into_owned();
        check(report.contains("117"), "the sum in the report")?;
        let artifacts = answer["artifacts"].as_array().cloned().unwrap_or_default();
        let once = |path: &str| artifacts.iter().filter(|file| file["file_path"] == path).count() == 1;
        check(
            ["sales.csv", "report.md", "chart.png", "published.md"]
                .into_iter()
                .all(once),
            "each file once",
        )?;
        self.say(&format!(
            "It left a report and a chart ({} bytes), each file once:",
            chart.len()
        ))?;
        for line in report.lines() {
            self.console.out(&format!("     {}", harmless(line)))?;
        }
        Ok(())
    }
}

fn has_failed(answer: &Value) -> bool {
    ["failed", "cancelled", "timeout"]
        .iter()
        .any(|status| answer["run"]["status"] == *status)
}

fn step<'a>(answer: &'a Value, tool: &str) -> Option<&'a Value> {
    answer["steps"]
        .as_array()?
        .iter()
        .find(|step| step["tool_name"] == tool)
}

fn check(holds: bool, what: &str) -> Result<(), Failure> {
    if holds {
        return Ok(());
    }
    Err(Failure::new("the demo ended otherwise than it should").because(format!("missing: {what}")))
}
