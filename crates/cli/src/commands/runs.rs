//! Runs: list, status, stop, pause, resume, retry.

use crate::args::{ResumeArgs, RetryRunArgs, RunsArgs};
use crate::client::Api;
use crate::console::{Console, one_line};
use crate::failure::{Code, Failure};
use crate::render;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Longest prompt in a list, in characters.
const MAX_PROMPT: usize = 60;

/// `agentctl runs`.
pub async fn list(console: Console, api: &Api, args: &RunsArgs) -> Result<Code, Failure> {
    let mut left = args.limit;
    let mut cursor = Value::Null;
    let mut rows = vec![];
    while left > 0 {
        let page = json!({"status": args.status, "limit": left.min(100), "cursor": cursor});
        let answer = api.execute("list", page).await?;
        let runs = answer["runs"].as_array().cloned().unwrap_or_default();
        left = left.saturating_sub(runs.len() as u32);
        rows.extend(runs);
        cursor = answer["next_cursor"].clone();
        if cursor.is_null() {
            break;
        }
    }
    if args.json {
        return rows
            .iter()
            .try_for_each(|row| console.out(&row.to_string()))
            .map(|()| Code::Ok);
    }
    if rows.is_empty() {
        console.note("no runs yet; start one with `agentctl run \"PROMPT\"`");
    }
    for row in &rows {
        let field = |key: &str| row[key].as_str().unwrap_or_default();
        let id = row["id"].as_str().unwrap_or_else(|| field("run_id"));
        let created = field("created_at");
        let status = format!("{:<12}", field("status"));
        let waits = waiting(row).map_or_else(String::new, |why| format!("  [{why}]"));
        console.out(&format!(
            "{id}  {}  {}  {}{waits}",
            console.paint(render::status_style(field("status")), &status),
            created.get(..19).unwrap_or(created).replace('T', " "),
            one_line(field("prompt"), MAX_PROMPT)
        ))?;
    }
    Ok(Code::Ok)
}

/// `agentctl status RUN`.
pub async fn status(console: Console, api: &Api, run: &str, as_json: bool) -> Result<Code, Failure> {
    let id = api.resolve(run).await?;
    let answer = api.status(&id, &["steps", "artifacts"]).await?;
    if as_json {
        console.out(&answer.to_string())?;
        return Ok(Code::Ok);
    }
    let run = &answer["run"];
    let field = |key: &str| run[key].as_str().unwrap_or("-").to_owned();
    let progress = &answer["progress"];
    let mut rows = vec![
        vec!["run".to_owned(), id],
        vec!["status".to_owned(), field("status")],
        vec!["prompt".to_owned(), one_line(&field("prompt"), 2 * MAX_PROMPT)],
        vec![
            "phase".to_owned(),
            format!(
                "{} of {}  ({} %)",
                progress["current_phase"], progress["total_phases"], progress["percentage"]
            ),
        ],
        vec!["steps".to_owned(), run["total_steps"].to_string()],
        vec!["tokens".to_owned(), run["total_tokens_used"].to_string()],
        vec!["created".to_owned(), field("created_at")],
        vec!["ended".to_owned(), field("completed_at")],
    ];
    if let Some(why) = waiting(run) {
        rows.push(vec!["waits for".to_owned(), why]);
    }
    if let Some(error) = run["error_message"].as_str() {
        rows.push(vec!["error".to_owned(), one_line(error, 4 * MAX_PROMPT)]);
    }
    for (path, bytes) in files_of(&answer) {
        rows.push(vec![
            "file".to_owned(),
            format!("{path}  {}", render::size(bytes)),
        ]);
    }
    render::table(&rows)
        .iter()
        .try_for_each(|line| console.out(line))?;
    Ok(Code::Ok)
}

/// Why a run does not move, in one line.
fn waiting(run: &Value) -> Option<String> {
    let why = &run["waiting_for"];
    let (kind, detail) = (why["kind"].as_str()?, why["detail"].as_str().unwrap_or_default());
    let until = why["until"]
        .as_str()
        .and_then(|at| at.get(11..19))
        .map_or_else(String::new, |at| format!(", until {at}"));
    Some(format!("{kind}{until}: {}", one_line(detail, 2 * MAX_PROMPT)))
}

/// `stop`, `pause`: one action on one run.
pub async fn act(console: Console, api: &Api, action: &str, run: &str) -> Result<Code, Failure> {
    let id = api.resolve(run).await?;
    let answer = api.execute(action, json!({"run_id": id})).await?;
    told(console, &answer)
}

/// `agentctl resume`.
pub async fn resume(console: Console, api: &Api, args: &ResumeArgs) -> Result<Code, Failure> {
    let id = api.resolve(&args.run).await?;
    let fields = json!({"run_id": id, "user_input": args.input});
    let answer = api.execute("resume", fields).await?;
    told(console, &answer)?;
    console.note(&format!("follow it with `agentctl logs {id} -f`"));
    Ok(Code::Ok)
}

/// `agentctl retry`: a new run of the same prompt.
pub async fn retry(console: Console, api: &Api, args: &RetryRunArgs) -> Result<Code, Failure> {
    let id = api.resolve(&args.run).await?;
    let copy = args.copy_workspace.then_some(true);
    let fields = json!({"run_id": id, "copy_workspace": copy});
    let answer = api.execute("retry", fields).await?;
    told(console, &answer)?;
    let new = text(&answer, "run_id")?;
    console.note(&format!("follow it with `agentctl logs {new} -f`"));
    Ok(Code::Ok)
}

fn told(console: Console, answer: &Value) -> Result<Code, Failure> {
    console.out(&format!(
        "{}  {}",
        text(answer, "run_id")?,
        text(answer, "status")?
    ))?;
    console.note(text(answer, "message")?);
    Ok(Code::Ok)
}

pub(crate) fn text<'v>(answer: &'v Value, key: &str) -> Result<&'v str, Failure> {
    answer[key].as_str().ok_or_else(|| {
        Failure::new(format!("the API's answer has no {key}"))
            .because("this agentctl and the API may be of different versions")
    })
}

/// Path and size of each file the run made, the newest state of each, in order of path.
pub(crate) fn files_of(answer: &Value) -> BTreeMap<String, u64> {
    let rows = answer["artifacts"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut files = BTreeMap::new();
    // Newest first, so the first one of a path counts.
    for row in rows {
        if let Some(path) = row["file_path"].as_str() {
            let bytes = row["file_size"].as_u64().unwrap_or_default();
            files.entry(path.to_owned()).or_insert(bytes);
        }
    }
    files
}
