//! `agentctl queue retry`: work on dead letters again.
//!
//! A failed run is final, so its letter becomes a new run of the same prompt for the same user. The idempotency key is made
//! of the letter's job id: after a crash between the new run and the letter's end the same run is found again.

use super::{database, failed, letters, store_failed};
use crate::args::RetryArgs;
use crate::console::{Console, one_line};
use crate::failure::{Code, Failure, chain};
use crate::place::Place;
use domain::canonical::payload_hash;
use domain::job::{child_traceparent, make_traceparent};
use domain::{Clock as _, Ids as _, Job, RunId, RunStatus, SystemClock, SystemIds};
use queue::{DeadLetter, Queue};
use runs::{
    CommandError, Committed, Created, IdempotencyKey, Orchestration, Outbox, Reader, RetryEdits, RunHead,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

const MAX_PRIORITY: u8 = 9;
/// `WORKER_MAX_RETRIES` when it is not set.
const DEFAULT_MAX_RETRIES: u32 = 3;
/// Longest shown reason, in characters.
const MAX_REASON: usize = 160;

/// `--payload`
#[derive(Debug, Clone, Default, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    prompt: Option<String>,
    priority: Option<u8>,
    /// For a letter that names no run, or one that does not exist.
    run_id: Option<RunId>,
}

/// What became of a letter.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    NewRun(RunId),
    Requeued(RunId),
    Gone,
    Refused(String),
}

struct Retrier<'a> {
    queue: &'a Queue,
    orchestration: Orchestration,
    outbox: Outbox,
    reader: Reader,
    payload: Payload,
    max_retries: u32,
}

/// Exit code 1 when one of them could not be.
pub(super) async fn retry(
    console: Console,
    queue: &Queue,
    place: &Place,
    args: &RetryArgs,
) -> Result<Code, Failure> {
    let db = database(place)?;
    let retrier = Retrier {
        queue,
        orchestration: Orchestration::new(db.clone(), Arc::new(SystemClock), Arc::new(SystemIds)),
        outbox: Outbox::new(db.clone()),
        reader: Reader::new(db),
        payload: args
            .payload
            .as_deref()
            .map_or_else(|| Ok(Payload::default()), payload)?,
        max_retries: max_retries(place)?,
    };
    let mut chosen = letters::chosen(queue, (&args.jobs, args.all), &args.filter).await?;
    chosen.reverse(); // eldest first
    let (mut done, mut refused) = (0, 0);
    for letter in &chosen {
        let outcome = retrier.retry(letter).await?;
        match outcome {
            Outcome::Refused(_) => refused += 1,
            _ => done += 1,
        }
        report(console, letter, &outcome, args.json)?;
    }
    console.note(&format!("{done} retried, {refused} could not be"));
    Ok(if refused == 0 { Code::Ok } else { Code::Failed })
}

fn max_retries(place: &Place) -> Result<u32, Failure> {
    place
        .get("WORKER_MAX_RETRIES")
        .map_or(Ok(DEFAULT_MAX_RETRIES), |text| {
            text.parse().map_err(|_| {
                Failure::new(format!("WORKER_MAX_RETRIES is no number: {text}")).code(Code::Usage)
            })
        })
}

fn payload(text: &str) -> Result<Payload, Failure> {
    let wrong = || {
        Failure::new("--payload cannot be used")
            .fix(r#"give an object with prompt, priority (0 to 9) or run_id, as in {"prompt":"List files","priority":5}, or @FILE"#)
            .code(Code::Usage)
    };
    let text = match text.strip_prefix('@') {
        Some(path) => {
            std::fs::read_to_string(path).map_err(|error| wrong().because(format!("{path}: {error}")))?
        }
        None => text.to_owned(),
    };
    let payload: Payload = serde_json::from_str(&text).map_err(|error| wrong().why(&error))?;
    if payload
        .prompt
        .as_ref()
        .is_some_and(|prompt| prompt.trim().is_empty())
    {
        return Err(wrong().because("the prompt is empty"));
    }
    if payload.priority.is_some_and(|priority| priority > MAX_PRIORITY) {
        return Err(wrong().because("the priority is above 9"));
    }
    Ok(payload)
}

fn report(console: Console, letter: &DeadLetter, outcome: &Outcome, as_json: bool) -> Result<(), Failure> {
    let (job_id, run_id) = (letter.job_id, letters::run_of(letter));
    let (word, new_run, reason) = match outcome {
        Outcome::NewRun(new) => ("new_run", Some(new), None),
        Outcome::Requeued(_) => ("requeued", None, None),
        Outcome::Gone => ("gone", None, None),
        Outcome::Refused(reason) => ("refused", None, Some(reason)),
    };
    if as_json {
        let line = json!({"job_id": job_id, "run_id": run_id, "outcome": word, "new_run_id": new_run, "reason": reason});
        return console.out(&line.to_string());
    }
    let id = job_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    console.out(&match outcome {
        Outcome::NewRun(new) => format!("job {id}  new run {new}"),
        Outcome::Requeued(run) => format!("job {id}  queued again, run {run}"),
        Outcome::Gone => format!("job {id}  gone: somebody else took it"),
        Outcome::Refused(reason) => format!("job {id}  not retried: {}", one_line(reason, MAX_REASON)),
    })
}

impl Retrier<'_> {
    async fn retry(&self, letter: &DeadLetter) -> Result<Outcome, Failure> {
        let Some(job) = &letter.job else {
            return match self.payload.run_id {
                Some(run_id) => self.requeue_edited(letter, run_id).await,
                None => Ok(Outcome::Refused(
                    r#"it is undecodable; name its run with --payload '{"run_id":"…"}', or drop it"#
                        .to_owned(),
                )),
            };
        };
        let head = self
            .reader
            .head(job.run_id)
            .await
            .map_err(|error| store_failed(&error))?;
        match (head, self.payload.run_id) {
            (None, Some(run_id)) => self.requeue_edited(letter, run_id).await,
            (None, None) => Ok(Outcome::Refused(
                r#"its run does not exist; name another with --payload '{"run_id":"…"}', or drop it"#
                    .to_owned(),
            )),
            (Some(_), Some(_)) => Ok(Outcome::Refused(
                "it has a run; run_id in --payload is for letters without one".to_owned(),
            )),
            (Some(head), None) => self.retry_run(letter, job, &head).await,
        }
    }

    async fn retry_run(&self, letter: &DeadLetter, job: &Job, head: &RunHead) -> Result<Outcome, Failure> {
        match head.status {
            RunStatus::Failed => self.new_run(letter, job, head).await,
            RunStatus::Completed | RunStatus::Cancelled | RunStatus::Timeout => {
                Ok(Outcome::Refused(format!(
                    "its run is {}; only a failed one can be run again; drop the letter",
                    head.status
                )))
            }
            RunStatus::WaitingUser | RunStatus::Paused => Ok(Outcome::Refused(format!(
                "its run is {}; go on with `agentctl resume {}` and drop the letter",
                head.status, job.run_id
            ))),
            _ if self.payload.prompt.is_some() => Ok(Outcome::Refused(
                "its run is not final; the prompt of a run cannot be changed".to_owned(),
            )),
            _ => self.requeue(letter, job).await,
        }
    }

    async fn new_run(&self, letter: &DeadLetter, job: &Job, head: &RunHead) -> Result<Outcome, Failure> {
        let Some(owner) = &head.user_id else {
            return Ok(Outcome::Refused("its run has no owner".to_owned()));
        };
        let key = IdempotencyKey {
            key: format!("dead-letter:{}", job.job_id),
            request_hash: payload_hash(&json!({"run_id": job.run_id, "payload": self.payload})),
        };
        let edits = RetryEdits {
            prompt: self.payload.prompt.clone(),
            priority: self.payload.priority,
            copy_workspace: false,
        };
        let traceparent = child_traceparent(&job.traceparent, seed()).unwrap_or_else(fresh_traceparent);
        let origin = (traceparent.as_str(), self.max_retries);
        let created = self
            .orchestration
            .retry_edited(owner, (job.run_id, edits), Some(key), origin)
            .await;
        let new_run = match created {
            Ok(Created::New(committed)) => {
                self.deliver(&committed).await?;
                committed.run.id
            }
            Ok(Created::Replayed { answer }) => replayed(&answer)?,
            Err(CommandError::IdempotencyConflict) => {
                return Ok(Outcome::Refused(
                    "it was retried before with another payload".to_owned(),
                ));
            }
            Err(refusal @ (CommandError::Rejected(_) | CommandError::NotFound)) => {
                return Ok(Outcome::Refused(chain(&refusal)));
            }
            Err(error) => return Err(store_failed(&error)),
        };
        self.queue
            .drop_dead_letter(letter)
            .await
            .map_err(|error| failed(&error))?;
        Ok(Outcome::NewRun(new_run))
    }

    /// After the commit; what fails here is repeated by relay and streams.
    async fn deliver(&self, committed: &Committed) -> Result<(), Failure> {
        if let Some(job) = &committed.enqueue {
            self.queue.push(job).await.map_err(|error| failed(&error))?;
            self.outbox
                .sent(&[job.job_id])
                .await
                .map_err(|error| store_failed(&error))?;
        }
        self.queue
            .publish(&committed.events)
            .await
            .map_err(|error| failed(&error))
    }

    async fn requeue(&self, letter: &DeadLetter, job: &Job) -> Result<Outcome, Failure> {
        let job = Job {
            priority: self.payload.priority.unwrap_or(job.priority),
            ..job.clone()
        };
        let moved = self.queue.requeue_dead_letter_as(letter, &job).await;
        let moved = moved.map_err(|error| failed(&error))?;
        Ok(if moved {
            Outcome::Requeued(job.run_id)
        } else {
            Outcome::Gone
        })
    }

    /// A letter without a usable run becomes a job of the run that was named.
    async fn requeue_edited(&self, letter: &DeadLetter, run_id: RunId) -> Result<Outcome, Failure> {
        let head = self
            .reader
            .head(run_id)
            .await
            .map_err(|error| store_failed(&error))?;
        let Some(head) = head else {
            return Ok(Outcome::Refused(format!("run {run_id} does not exist")));
        };
        let takes_a_job = head.status == RunStatus::Created || head.status.needs_job();
        if self.payload.prompt.is_some() || !takes_a_job {
            let status = head.status;
            return Ok(Outcome::Refused(format!(
                "run {run_id} is {status}; only a created or queued one takes a job, as it is"
            )));
        }
        let Some(job_id) = letter.job_id else {
            return Ok(Outcome::Refused(
                "it has no job_id; drop it and push a job".to_owned(),
            ));
        };
        let job = Job {
            job_id,
            run_id,
            attempt: 1,
            retry_count: 0,
            priority: self.payload.priority.unwrap_or(0),
            enqueued_at: SystemClock.now(),
            traceparent: fresh_traceparent(),
        };
        self.requeue(letter, &job).await
    }
}

fn replayed(answer: &Value) -> Result<RunId, Failure> {
    let id = answer["run_id"].as_str().and_then(|id| id.parse().ok());
    id.ok_or_else(|| Failure::new("the earlier retry left no run id").because(answer.to_string()))
}

fn seed() -> [u8; 8] {
    let mut seed = [0; 8];
    seed.copy_from_slice(&SystemIds.uuid().as_bytes()[8..]);
    seed
}

fn fresh_traceparent() -> String {
    let mut all = [0; 24];
    all[..16].copy_from_slice(SystemIds.uuid().as_bytes());
    all[16..].copy_from_slice(&seed());
    make_traceparent(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_says_what_is_wrong_with_it() {
        assert_eq!(
            payload(r#"{"prompt":"x","priority":9}"#).unwrap().priority,
            Some(9)
        );
        for bad in [
            "",
            "[]",
            r#"{"priority":10}"#,
            r#"{"prompt":" "}"#,
            r#"{"promt":"x"}"#,
            "@/nowhere",
        ] {
            let failure = payload(bad).unwrap_err();
            assert_eq!(failure.code, Code::Usage, "{bad}");
            assert!(failure.why.is_some() && failure.fix.is_some(), "{bad}");
        }
    }
}
