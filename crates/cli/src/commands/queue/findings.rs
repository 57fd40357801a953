//! What `agentctl queue doctor` can find, in words.

use crate::console::one_line;
use domain::{JobId, RunId};
use queue::{Element, Fault, HeldLease};
use worker::reconcile::Difference;

/// Longest shown text, in characters.
pub(super) const MAX_SHOWN: usize = 160;

/// Something that is not as it must be.
#[derive(Debug)]
pub(super) enum Finding {
    /// Redis by itself.
    Fault { fault: Fault, run_id: Option<RunId> },
    /// Pushed by hand, for a run that does not want it.
    Unwanted { element: Element, why: String },
    /// Redis against Postgres.
    Difference(Difference),
    /// Committed long ago and not pushed.
    Outbox(JobId),
    /// A lease that neither a living worker nor the run's row knows of.
    DeadWorker(HeldLease),
    /// The server's settings.
    Server(String),
}

impl Finding {
    /// The same in two looks.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Fault { fault, .. } => format!("{fault:?}"),
            Self::Unwanted { element, .. } => format!("{} {:?}", element.list, element.raw),
            Self::Difference(difference) => format!("{} {}", difference.kind(), difference.job_id()),
            Self::Outbox(job_id) => format!("outbox {job_id}"),
            Self::DeadWorker(lease) => format!("lease {} {}", lease.job_id, lease.epoch),
            Self::Server(text) => text.clone(),
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Fault { fault, .. } => fault.kind(),
            Self::Unwanted { .. } => "unwanted",
            Self::Difference(difference) => difference.kind(),
            Self::Outbox(_) => "outbox",
            Self::DeadWorker(_) => "dead_worker",
            Self::Server(_) => "server",
        }
    }

    pub(super) fn ids(&self) -> (Option<String>, Option<RunId>) {
        match self {
            Self::Fault { fault, run_id } => (fault.job_id(), *run_id),
            Self::Unwanted { element, .. } => (element.job_id.map(|id| id.to_string()), element.run_id),
            Self::Difference(difference) => {
                (Some(difference.job_id().to_string()), Some(difference.run_id()))
            }
            Self::Outbox(job_id) => (Some(job_id.to_string()), None),
            Self::DeadWorker(lease) => (Some(lease.job_id.clone()), lease.run_id),
            Self::Server(_) => (None, None),
        }
    }

    /// What is wrong, and what `--fix` does about it.
    pub(super) fn words(&self) -> (String, &'static str) {
        match self {
            Self::Fault { fault, .. } => fault_words(fault),
            Self::Unwanted { element, why } => (format!("in {}, {why}", element.list), "remove the element"),
            Self::Difference(difference) => difference_words(difference),
            Self::Outbox(_) => (
                "committed more than 30 s ago and not pushed".to_owned(),
                "push it",
            ),
            Self::DeadWorker(lease) => (
                format!("held by {}, which does not live", lease.worker()),
                "end the lease and put the job at the front of its line",
            ),
            Self::Server(text) => (text.clone(), "nothing: change the server's settings"),
        }
    }
}

fn fault_words(fault: &Fault) -> (String, &'static str) {
    match fault {
        Fault::Lost { .. } => (
            "known, but in no list".to_owned(),
            "forget it; it is pushed again if its run needs it",
        ),
        Fault::Torn { list, .. } => (
            format!("in {list}, but half of what belongs to it is gone"),
            "complete or remove it",
        ),
        Fault::WrongList { list, .. } => (
            format!("in {list}, where the queue did not put it"),
            "put it back",
        ),
        Fault::Doubled { list, .. } => (
            format!("more than once, the second in {list}"),
            "remove the second",
        ),
        Fault::NotDue { raw } => {
            let text = one_line(&String::from_utf8_lossy(raw), MAX_SHOWN);
            (
                format!("in retry without a due time: {text}"),
                "put it in its line",
            )
        }
        Fault::StrayDue { .. } => (
            "a due time, but nothing in retry".to_owned(),
            "remove the due time",
        ),
        Fault::Unleased { raw } => {
            let text = one_line(&String::from_utf8_lossy(raw), MAX_SHOWN);
            (
                format!("in processing without a lease: {text}"),
                "put it at the front of its line",
            )
        }
        Fault::StrayLease { .. } => (
            "a lease, but nothing in processing".to_owned(),
            "put the element back, or remove the lease",
        ),
    }
}

fn difference_words(difference: &Difference) -> (String, &'static str) {
    match difference {
        Difference::Missing { .. } => ("its run needs a job, and it is in no list".to_owned(), "push it"),
        Difference::Stale { entry, status, .. } => {
            (format!("in {}, but its run is {status}", entry.list), "remove it")
        }
        Difference::Duplicate { entry, .. } => (
            format!("in {}, but its run has another job", entry.list),
            "remove it",
        ),
        Difference::UnknownRun { entry, .. } => {
            (format!("in {}, but no run has this id", entry.list), "remove it")
        }
        Difference::WrongList { entry, waiting, .. } => {
            let right = match waiting.retry_at {
                Some(_) => "retry",
                None if waiting.job.priority > 0 => "high_priority",
                None => "pending",
            };
            (
                format!("in {} instead of {right}", entry.list),
                "put it where its run says",
            )
        }
    }
}
