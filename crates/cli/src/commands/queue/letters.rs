//! Dead letters: finding, showing and dropping them.

use super::{database, failed, history};
use crate::args::{DropArgs, LetterFilter};
use crate::console::{Console, harmless, one_line};
use crate::failure::{Code, Failure};
use crate::place::Place;
use domain::{Clock as _, RunId, SystemClock};
use jiff::Timestamp;
use queue::{DeadLetter, Queue};
use runs::Reader;
use serde_json::{Value, json};

/// Longest shown error, in characters.
const MAX_ERROR: usize = 80;

/// Which letters are shown, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown<'a> {
    pub(super) filter: &'a LetterFilter,
    pub(super) limit: usize,
    pub(super) as_json: bool,
}

/// The run a letter names, also one whose element is no whole job.
pub(super) fn run_of(letter: &DeadLetter) -> Option<RunId> {
    let loose = || {
        let value: Value = serde_json::from_slice(&letter.raw).ok()?;
        value["run_id"].as_str()?.parse().ok()
    };
    letter.job.as_ref().map(|job| job.run_id).or_else(loose)
}

fn matches(filter: &LetterFilter, letter: &DeadLetter, now: Timestamp) -> bool {
    let has_reason = |reason: &String| letter.reason.as_ref() == Some(reason);
    let is_young = |since: &jiff::SignedDuration| {
        let failed_at: Option<Timestamp> = letter.failed_at.as_ref().and_then(|at| at.parse().ok());
        failed_at.is_some_and(|at| now.duration_since(at) <= *since)
    };
    let has_error = |text: &String| letter.error.as_ref().is_some_and(|error| error.contains(text));
    filter.reason.as_ref().is_none_or(has_reason)
        && filter.run.is_none_or(|run| run_of(letter) == Some(RunId(run)))
        && filter.since.as_ref().is_none_or(is_young)
        && filter.error.as_ref().is_none_or(has_error)
}

/// Letters that a command names by job, by condition, or all. At least one way must be used.
pub(super) async fn chosen(
    queue: &Queue,
    (jobs, all): (&[uuid::Uuid], bool),
    filter: &LetterFilter,
) -> Result<Vec<DeadLetter>, Failure> {
    if jobs.is_empty() && !all && filter.is_empty() {
        return Err(Failure::new("no dead letter is named")
            .fix("give job ids (see `agentctl queue dead`), --reason, --run, --since, --error, or --all")
            .code(Code::Usage));
    }
    let letters = queue.all_dead_letters().await.map_err(|error| failed(&error))?;
    let now = SystemClock.now();
    let is_named =
        |letter: &DeadLetter| jobs.is_empty() || letter.job_id.is_some_and(|id| jobs.contains(&id.0));
    let absent: Vec<String> = jobs
        .iter()
        .filter(|job| {
            !letters
                .iter()
                .any(|letter| letter.job_id.is_some_and(|id| id.0 == **job))
        })
        .map(ToString::to_string)
        .collect();
    if !absent.is_empty() {
        return Err(
            Failure::new(format!("no dead letter of job {}", absent.join(", ")))
                .fix("`agentctl queue dead` shows them; one that was retried before is gone"),
        );
    }
    Ok(letters
        .into_iter()
        .filter(|letter| is_named(letter) && matches(filter, letter, now))
        .collect())
}

/// `agentctl queue dead`
pub(super) async fn dead(
    console: Console,
    queue: &Queue,
    place: &Place,
    shown: Shown<'_>,
) -> Result<Code, Failure> {
    let letters = queue.all_dead_letters().await.map_err(|error| failed(&error))?;
    let now = SystemClock.now();
    let found = letters.iter().filter(|letter| matches(shown.filter, letter, now));
    let found: Vec<&DeadLetter> = found.take(shown.limit).collect();
    if found.is_empty() {
        console.note("no dead letters");
        return Ok(Code::Ok);
    }
    let reader = database(place).ok().map(Reader::new);
    if reader.is_none() {
        console.note("the attempts are not shown: DATABASE_URL is not set");
    }
    for letter in found {
        let run = match (&reader, run_of(letter)) {
            (Some(reader), Some(run_id)) => history::of_run(reader, run_id).await?,
            _ => Value::Null,
        };
        if shown.as_json {
            let mut object: Value = serde_json::from_slice(&letter.raw)
                .unwrap_or_else(|_| json!({"payload": String::from_utf8_lossy(&letter.raw)}));
            object["run"] = run;
            console.out(&object.to_string())?;
        } else {
            show(console, letter, &run)?;
        }
    }
    Ok(Code::Ok)
}

fn show(console: Console, letter: &DeadLetter, run: &Value) -> Result<(), Failure> {
    let text = |value: Option<&str>| one_line(value.unwrap_or("-"), MAX_ERROR);
    let job_id = letter.job_id.map(|id| id.to_string());
    let run_id = run_of(letter).map(|id| id.to_string());
    console.out(&format!(
        "{}  job {}  run {}  {}  {}",
        text(letter.failed_at.as_deref()),
        text(job_id.as_deref()),
        text(run_id.as_deref()),
        text(letter.reason.as_deref()),
        text(letter.error.as_deref())
    ))?;
    if let Some(payload) = &letter.payload {
        console.out(&format!("    payload  {}", one_line(payload, MAX_ERROR)))?;
    }
    for told in run["attempts"].as_array().into_iter().flatten() {
        let what = one_line(told["what"].as_str().unwrap_or_default(), MAX_ERROR);
        let at = told["at"].as_str().unwrap_or("-");
        console.out(&format!(
            "    attempt {}  {}  {what}",
            told["attempt"],
            harmless(at)
        ))?;
    }
    if let Some(status) = run["status"].as_str() {
        console.out(&format!("    run is {status}"))?;
    }
    Ok(())
}

/// `agentctl queue drop`
pub(super) async fn drop_letters(console: Console, queue: &Queue, args: &DropArgs) -> Result<Code, Failure> {
    let letters = chosen(queue, (&args.jobs, args.all), &args.filter).await?;
    if letters.len() > 1 && !args.yes {
        return Err(
            Failure::new(format!("{} dead letters would be dropped", letters.len()))
                .fix("add --yes to drop them for good")
                .code(Code::Usage),
        );
    }
    let mut dropped = 0;
    for letter in &letters {
        let is_gone = !queue
            .drop_dead_letter(letter)
            .await
            .map_err(|error| failed(&error))?;
        dropped += usize::from(!is_gone);
        let (job_id, run_id) = (letter.job_id, run_of(letter));
        let outcome = if is_gone { "gone" } else { "dropped" };
        if args.json {
            console.out(&json!({"job_id": job_id, "run_id": run_id, "outcome": outcome}).to_string())?;
        } else {
            let id = job_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
            console.out(&format!("{outcome}  job {id}"))?;
        }
    }
    console.note(&format!("{dropped} dropped"));
    Ok(Code::Ok)
}
