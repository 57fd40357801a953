//! From a decision to the batch, and from the batch to what is left to do after the commit.

use super::{CommandError, Committed};
use crate::authority::batch::Batch;
use crate::authority::write;
use domain::decide::{Decision, JobIntent, LeaseIntent};
use domain::ids::JobId;
use domain::run::RunState;
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
