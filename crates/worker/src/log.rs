//! The agent's run log over the authority: fenced commits, then the events on the live channel.

use crate::figures;
use crate::held::HeldRuns;
use agent::ports::{CommitError, RunLog};
use domain::breakage::{self, Breakage};
use domain::change::Change;
use domain::decide::Rejection;
use domain::ids::RunId;
use domain::{Event, RunStatus};
use queue::Queue;
use runs::{CommandError, Committed, Orchestration};
use std::error::Error as _;
use std::time::Duration;

/// Writes one run's changes with the epoch of one claim.
#[derive(Debug)]
pub struct FencedLog<'a> {
    pub orchestration: &'a Orchestration,
    pub queue: &'a Queue,
    pub held: &'a HeldRuns,
    pub run_id: RunId,
    pub epoch: i64,
    /// Length of a lease.
    pub lease: Duration,
}

impl RunLog for FencedLog<'_> {
    async fn commit(&self, changes: Vec<Change>) -> Result<(), CommitError> {
        let settles = changes
            .iter()
            .any(|change| matches!(change, Change::StepSettled { .. }));
        let committed = self
            .orchestration
            .progress(self.run_id, self.epoch, changes)
            .await;
        let Committed { events, .. } = committed.map_err(refusal)?;
        if settles {
            // The next renewal tells Redis that the count of crashes in a row starts again.
            self.held.update(self.run_id, |hold| hold.settled += 1);
        }
        figures::count_tools(&events);
        publish(self.queue, &events).await;
        Ok(())
    }

    fn is_held(&self) -> bool {
        breakage::is(Breakage::NoFencing) || self.held.is_confirmed(self.run_id, self.lease)
    }
}

fn refusal(error: CommandError) -> CommitError {
    match error {
        CommandError::Rejected(Rejection::Ended(status)) => CommitError::Ended(status),
        CommandError::Rejected(
            Rejection::Paused
            | Rejection::Illegal {
                from: RunStatus::Paused,
                ..
            },
        ) => CommitError::Paused,
        CommandError::Fenced | CommandError::NotFound => CommitError::Fenced,
        CommandError::Rejected(other) => CommitError::Refused(other.to_string()),
        other => CommitError::Unavailable(with_sources(&other)),
    }
}

/// The error with its sources, for logs and `last_error`.
pub fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Announces committed events. A failure costs latency only: streams read the store.
pub async fn publish(queue: &Queue, events: &[Event]) {
    if let Err(error) = queue.publish(events).await {
        metrics::counter!("agent_publish_errors_total").increment(1);
        tracing::debug!(error = %error, source = ?error.source().map(ToString::to_string), "events not published");
    }
}
