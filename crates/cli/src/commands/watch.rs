//! Starting a run and following logs.

use crate::args::{LogsArgs, RunArgs};
use crate::client::Api;
use crate::client::follow::Follower;
use crate::commands::interrupts::json_of;
use crate::commands::runs::{files_of, text};
use crate::console::{Console, Style};
use crate::failure::{Code, Failure};
use crate::render::{self, PhaseNames};
use domain::RunStatus;
use serde_json::{Value, json};

/// Rows asked for at once when a stored log is shown.
const LOG_PAGE: u32 = 500;

/// `agentctl run`: creates, starts, follows to the end; the exit code is the outcome.
pub async fn run(console: Console, api: &Api, args: &RunArgs) -> Result<Code, Failure> {
    let policy = args.policy.as_deref().map(|text| json_of("--policy", text));
    let created = api
        .execute(
            "create",
            json!({
                "prompt": args.prompt,
                "priority": args.priority,
                "project_id": args.project,
                "connector_ids": (!args.connectors.is_empty()).then_some(&args.connectors),
                "policy": policy.transpose()?,
                "plan_only": args.plan_only.then_some(true),
                "auto_start": false,
            }),
        )
        .await?;
    let id = text(&created, "run_id")?.to_owned();
    api.execute("start", json!({"run_id": id})).await?;
    if args.detach {
        if args.json {
            console.out(&json!({"run_id": id, "status": "queued"}).to_string())?;
        } else {
            console.out(&id)?;
            console.note(&format!("follow it with `agentctl logs {id} -f`"));
        }
        return Ok(Code::Ok);
    }
    if !args.json {
        console.note(&format!("run {id}"));
    }
    watch(console, api, &id, args.json).await
}

/// Follows a run until it ends or waits for its user.
async fn watch(console: Console, api: &Api, id: &str, as_json: bool) -> Result<Code, Failure> {
    let mut log = Log::new(console, as_json);
    let mut follower = Follower::new(api, console, id, 0);
    loop {
        let event = tokio::select! {
            event = follower.next() => event?,
            interrupt = tokio::signal::ctrl_c() => {
                interrupt?;
                return Ok(detached(console, id, follower.last_seq()));
            }
        };
        let Some(event) = event else { break };
        log.show(api, id, &event).await?;
        if let Some(status) = stopped_at(&event) {
            let asked = asked(api, id, status).await;
            return waiting(console, id, (status, &asked), follower.last_seq(), as_json);
        }
    }
    summary(console, api, id, as_json).await
}

fn detached(console: Console, id: &str, seq: i64) -> Code {
    console.note(&format!(
        "\ndetached; the run goes on. Follow it again with:\n  agentctl logs {id} -f --after {seq}\nor stop it with:\n  agentctl stop {id}"
    ));
    Code::Interrupted
}

/// The status in which a run stands still until its user acts.
fn stopped_at(event: &Value) -> Option<RunStatus> {
    let to = event["metadata"]["to_status"].as_str()?;
    let status = RunStatus::parse(to)?;
    (event["log_type"] == "state_transition" && matches!(status, RunStatus::WaitingUser | RunStatus::Paused))
        .then_some(status)
}

/// What a waiting run asks; nothing when it cannot be read, the run's log says it too.
async fn asked(api: &Api, id: &str, status: RunStatus) -> Vec<Value> {
    if status != RunStatus::WaitingUser {
        return vec![];
    }
    let answer = api.interrupts(id, false).await.unwrap_or_default();
    answer["interrupts"].as_array().cloned().unwrap_or_default()
}

fn waiting(
    console: Console,
    id: &str,
    (status, asked): (RunStatus, &[Value]),
    seq: i64,
    as_json: bool,
) -> Result<Code, Failure> {
    if as_json {
        console
            .out(&json!({"type": "summary", "run_id": id, "status": status, "last_seq": seq}).to_string())?;
        return Ok(Code::Waiting);
    }
    let approval = asked.iter().any(|one| one["kind"] != "question");
    let (why, how) = match status {
        RunStatus::WaitingUser if approval => (
            "the run waits for your approval",
            format!("agentctl approve {id}\n  agentctl reject {id} --reason \"WHY\""),
        ),
        RunStatus::WaitingUser => (
            "the run waits for your answer",
            format!("agentctl resume {id} --input \"ANSWER\""),
        ),
        _ => ("the run is paused", format!("agentctl resume {id}")),
    };
    console.note(&format!(
        "{}\n  {how}\n  agentctl logs {id} -f --after {seq}",
        console.paint_note(Style::Yellow, why)
    ));
    Ok(Code::Waiting)
}

async fn summary(console: Console, api: &Api, id: &str, as_json: bool) -> Result<Code, Failure> {
    let answer = api.status(id, &["artifacts"]).await?;
    let run = &answer["run"];
    let status = run["status"].as_str().unwrap_or("unknown");
    let files = files_of(&answer);
    let seconds = duration_seconds(run);
    if as_json {
        let list: Vec<Value> = files
            .iter()
            .map(|(path, bytes)| json!({"path": path, "bytes": bytes}))
            .collect();
        let line = json!({"type": "summary", "run_id": id, "status": status, "error_message": run["error_message"],
            "steps": run["total_steps"], "tokens": run["total_tokens_used"], "seconds": seconds, "files": list});
        console.out(&line.to_string())?;
    } else {
        let number = |key: &str| run[key].as_u64().unwrap_or_default();
        let time = seconds.map_or_else(String::new, |s| format!(" in {s:.1} s"));
        console.out(&format!(
            "{}{time} · {} · {} · {}",
            console.paint(render::status_style(status), status),
            render::count(number("total_steps"), "step"),
            render::count(number("total_tokens_used"), "token"),
            render::count(files.len() as u64, "file"),
        ))?;
        for (path, bytes) in &files {
            console.out(&format!(
                "  {}  {}",
                crate::console::harmless(path),
                render::size(*bytes)
            ))?;
        }
        if !files.is_empty() {
            console.note(&format!("get them with `agentctl files {id} pull DIR`"));
        }
    }
    Ok(outcome(status))
}

/// The exit code that stands for a status at the end.
fn outcome(status: &str) -> Code {
    match RunStatus::parse(status) {
        Some(RunStatus::Completed) => Code::Ok,
        Some(RunStatus::WaitingUser | RunStatus::Paused) => Code::Waiting,
        _ => Code::Failed,
    }
}

fn duration_seconds(run: &Value) -> Option<f64> {
    let at = |key: &str| run[key].as_str()?.parse::<jiff::Timestamp>().ok();
    let start = at("started_at").or_else(|| at("created_at"))?;
    Some(at("completed_at")?.duration_since(start).as_secs_f64())
}

/// Shows events as lines or as JSON; learns the names of the phases once there is a plan.
struct Log {
    console: Console,
    as_json: bool,
    phases: PhaseNames,
}

impl Log {
    fn new(console: Console, as_json: bool) -> Self {
        Self {
            console,
            as_json,
            phases: PhaseNames::default(),
        }
    }

    async fn show(&mut self, api: &Api, id: &str, event: &Value) -> Result<(), Failure> {
        if self.as_json {
            return self.console.out(&event.to_string());
        }
        let needs_names = self.phases.is_empty() && event["metadata"]["total_phases"].as_u64() > Some(0);
        if needs_names && let Ok(answer) = api.status(id, &[]).await {
            self.phases = PhaseNames::of_plan(&answer["run"]["plan"]);
        }
        match render::event_line(self.console, event, &self.phases) {
            Some(line) => self.console.out(&line),
            None => Ok(()),
        }
    }
}

/// `agentctl logs`.
pub async fn logs(console: Console, api: &Api, args: &LogsArgs) -> Result<Code, Failure> {
    let id = api.resolve(&args.run).await?;
    let mut log = Log::new(console, args.json);
    if args.follow {
        let mut follower = Follower::new(api, console, &id, args.after);
        loop {
            let event = tokio::select! {
                event = follower.next() => event?,
                interrupt = tokio::signal::ctrl_c() => {
                    interrupt?;
                    return Ok(detached(console, &id, follower.last_seq()));
                }
            };
            match event {
                Some(event) => log.show(api, &id, &event).await?,
                None => return Ok(Code::Ok),
            }
        }
    }
    let mut after = args.after;
    loop {
        let page = api.logs(&id, after, LOG_PAGE).await?;
        for row in page["logs"].as_array().map(Vec::as_slice).unwrap_or_default() {
            log.show(api, &id, &stream_form(row)).await?;
            after = row["seq"].as_i64().unwrap_or(after).max(after);
        }
        if page["has_more"] != json!(true) {
            return Ok(Code::Ok);
        }
    }
}

/// A stored row in the form the stream gives it, so that `--json` has one form.
fn stream_form(row: &Value) -> Value {
    if row["log_type"] == "complete" {
        return json!({"type": "complete", "run_id": row["run_id"], "seq": row["seq"],
            "status": row["metadata"]["status"], "message": row["message"], "timestamp": row["created_at"]});
    }
    json!({"type": "log", "run_id": row["run_id"], "seq": row["seq"], "id": row["id"], "log_type": row["log_type"],
        "message": row["message"], "metadata": row["metadata"], "timestamp": row["created_at"]})
}
