//! Who holds a run: a worker takes it, and lets go of it.

use super::{Decision, JobIntent, LeaseIntent, Rejection, status};
use crate::change::Change;
use crate::command::Release;
use crate::event::NewEvent;
use crate::ids::{JobId, WorkerId};
use crate::run::{Origin, RunState};
use crate::status::RunStatus;
use serde_json::json;

/// A worker takes the run, unless another one holds it still.
pub(super) fn claim(run: &RunState, worker: WorkerId, job_id: JobId) -> Result<Decision, Rejection> {
    if run.origin == Origin::Runtime {
        return Err(Rejection::Foreign);
    }
    if let Some(lease) = &run.lease
        && lease.alive
        && lease.owner != worker
    {
        return Err(Rejection::Held(lease.owner.clone()));
    }
    let taken = |changes| Ok(Decision::of(changes).lease(LeaseIntent::Take(worker)));
    match run.status {
        // A job pushed by hand counts as `start`.
        RunStatus::Created => {
            let decision = taken(vec![status(RunStatus::Queued), status(RunStatus::Planning)])?;
            Ok(decision.job(JobIntent::Enqueue(job_id)))
        }
        RunStatus::Queued => taken(vec![status(RunStatus::Planning)]),
        RunStatus::Planning | RunStatus::Executing => taken(take_over_note(run)),
        RunStatus::Paused => Err(Rejection::Paused),
        RunStatus::WaitingUser => Err(Rejection::WaitsForUser),
        ended => Err(Rejection::Ended(ended)),
    }
}

/// A lease that is still on the row at a claim belongs to a lost worker.
fn take_over_note(run: &RunState) -> Vec<Change> {
    let Some(lease) = &run.lease else { return vec![] };
    let metadata = json!({"event": "executor_lost", "worker": lease.owner, "attempt": run.retry_count + 1});
    vec![Change::Log(NewEvent::warning(
        "Worker lost, continuing on another worker",
        metadata,
    ))]
}

/// The worker lets go.
pub(super) fn release(run: &RunState, release: Release) -> Decision {
    match release {
        Release::HandBack => Decision::of(vec![]).lease(LeaseIntent::Drop),
        Release::Done => {
            let job = if run.status.needs_job() {
                JobIntent::Keep
            } else {
                JobIntent::Remove
            };
            Decision::of(vec![]).job(job).lease(LeaseIntent::Drop)
        }
        Release::Retry {
            after_ms,
            error,
            cause,
        } => {
            let metadata =
                json!({"event": "retry", "after_ms": after_ms, "retry_count": run.retry_count + 1});
            let note = NewEvent::warning(format!("Attempt failed, will retry: {error}"), metadata);
            Decision::of(vec![Change::Log(note)]).lease(LeaseIntent::DropForRetry {
                after_ms,
                error,
                cause,
            })
        }
    }
}
