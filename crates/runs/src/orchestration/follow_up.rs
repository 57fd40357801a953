//! From a decision to the batch, and from the batch to what is left to do after the commit.

use super::{CommandError, Committed};
use crate::authority::batch::{Batch, Context};
use crate::authority::row::RunRow;
use crate::authority::write;
use domain::command::Expiry;
use domain::decide::{Decision, JobIntent, LeaseIntent, Rejection};
use domain::ids::JobId;
use domain::run::RunState;
use domain::status::RunStatus;
use std::time::Duration;

/// Applies a decision to the batch; gives what becomes of the queue entry.
pub(super) fn enact(batch: &mut Batch<'_>, decision: Decision, lease: Duration) -> Enacted {
    let retried = matches!(decision.lease, LeaseIntent::DropForRetry { .. });
    for change in decision.changes {
        batch.apply(change);
    }
    batch.lease(decision.lease, lease.as_millis() as i64);
    Enacted {
        job: decision.job,
        retried,
    }
}

pub(super) struct Enacted {
    job: JobIntent,
    retried: bool,
}

/// Outbox rows of the commit, and what the caller has to do after it.
pub(super) fn follow_up(batch: &mut Batch<'_>, enacted: Enacted, is_claim: bool) -> Committed {
    let mut committed = Committed {
        run: batch.run.state.clone(),
        events: vec![],
        enqueue: None,
        remove_job: None,
        retry_job: None,
    };
    match enacted.job {
        JobIntent::Keep => {}
        JobIntent::Enqueue(job_id) => {
            let before = batch.run.state.job_id.replace(job_id);
            // A claim's entry is in the queue already, pushed by hand.
            if !is_claim {
                // Its worker may not have let go of the one before yet: a run has one entry.
                committed.remove_job = before.filter(|before| *before != job_id);
                let job = batch.run.job(job_id);
                batch.writes.push(write::outbox(&job));
                committed.enqueue = Some(job);
            }
        }
        JobIntent::Remove => {
            committed.remove_job = batch.run.state.job_id;
            batch.writes.push(write::outbox_cleared(&batch.run));
        }
    }
    if enacted.retried {
        committed.retry_job = batch.run.state.job_id.map(|job_id| batch.run.job(job_id));
    }
    committed
}

/// A live run is executed for its recorded queue entry only.
pub(super) fn duplicate(run: &RunState, job_id: JobId) -> Option<CommandError> {
    let recorded = run.job_id.filter(|recorded| *recorded != job_id)?;
    if !run.status.needs_job() {
        return None;
    }
    tracing::info!(run.id = %run.id, job.id = %job_id, job.recorded = %recorded, "duplicate queue entry");
    Some(CommandError::DuplicateJob)
}

/// A sweep decides on what it read a moment ago; the deadline may have moved since.
pub(super) fn not_yet(run: &RunRow, expiry: Expiry, context: &Context<'_>) -> Option<Rejection> {
    let to = RunStatus::Timeout;
    let early = Rejection::Illegal {
        from: run.state.status,
        to,
    };
    let working = matches!(run.state.status, RunStatus::Planning | RunStatus::Executing);
    match expiry {
        Expiry::RunDeadline if !run.state.status.is_final() => {
            let passed = run
                .times
                .deadline_at
                .is_some_and(|deadline| deadline <= context.now);
            (!working || !passed).then_some(early)
        }
        Expiry::WaitingForUser if !run.state.status.is_final() => {
            (run.state.status != RunStatus::WaitingUser).then_some(early)
        }
        _ => None,
    }
}
