//! The agent's run log over the authority: fenced commits, and behind them the events on the live channel.

use crate::figures;
use crate::held::HeldRuns;
use crate::live::Live;
use agent::ports::{CommitError, OutputPiece, RunLog};
use agent::purse::Purse;
use domain::breakage::{self, Breakage, CrashPoint, crash_at};
use domain::budget::{Reached, Spend};
use domain::change::Change;
use domain::decide::Rejection;
use domain::ids::{RunId, StepId, UserId};
use domain::{Event, RunStatus};
use queue::Queue;
use runs::budget::Ahead;
use runs::{Budgets, CommandError, Committed, Credits, Orchestration, StoreError, Sweep};
use std::error::Error as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Between two tries to write a result while the store's writes are frozen.
const FROZEN_PAUSE: Duration = Duration::from_secs(5);

/// Writes one run's changes with the epoch of one claim.
#[derive(Debug)]
pub struct FencedLog<'a> {
    pub orchestration: &'a Orchestration,
    pub announcer: &'a Announcer,
    pub held: &'a HeldRuns,
    pub run_id: RunId,
    pub epoch: i64,
    /// Length of a lease.
    pub lease: Duration,
    /// None while credits are not enforced.
    pub credits: Option<&'a Credits>,
    pub sweep: &'a Sweep,
    pub live: &'a Live,
    /// None while the run has no budget.
    pub purse: Option<Purse>,
    pub budgets: &'a Budgets,
    pub user_id: &'a UserId,
    pub traceparent: &'a str,
}

impl RunLog for FencedLog<'_> {
    async fn commit(&self, changes: Vec<Change>) -> Result<(), CommitError> {
        let settles = changes
            .iter()
            .any(|change| matches!(change, Change::StepSettled { .. }));
        if settles {
            crash_at(CrashPoint::BeforeSettle);
        }
        let committed = self.written(changes).await;
        let Committed { events, .. } = committed.map_err(refusal)?;
        if settles {
            crash_at(CrashPoint::AfterSettle);
            // The next renewal tells Redis that the count of crashes in a row starts again.
            self.held.update(self.run_id, |hold| hold.settled += 1);
        }
        figures::count_tools(&events);
        self.announcer.announce(events).await;
        Ok(())
    }

    fn is_held(&self) -> bool {
        breakage::is(Breakage::NoFencing) || self.held.is_confirmed(self.run_id, self.lease)
    }

    /// A store that cannot be asked has not said so: the run goes on, and what is left over is cleaned up later.
    async fn has_ended(&self) -> bool {
        match self.sweep.runs(&[self.run_id]).await {
            Ok(runs) => runs.first().is_none_or(|run| run.status.is_final()),
            Err(error) => {
                tracing::warn!(run_id = %self.run_id, error = %with_sources(&error), "run's standing not known");
                false
            }
        }
    }

    fn traceparent(&self) -> Option<String> {
        (!self.traceparent.is_empty()).then(|| self.traceparent.to_owned())
    }

    fn show(&self, step_id: StepId, piece: OutputPiece) {
        self.live.show(step_id, piece);
    }

    fn show_text(&self, turn: u32, try_number: u32, text: &str) {
        self.live.show_text(turn, try_number, text);
    }

    fn purse(&self) -> Option<&Purse> {
        self.purse.as_ref()
    }

    async fn refresh_purse(&self) -> Result<(), CommitError> {
        let Some(purse) = &self.purse else {
            return Ok(());
        };
        let funds = self.budgets.of_run(self.run_id).await;
        if let Some(funds) = funds.map_err(away)? {
            purse.set_budget(funds.budget);
        }
        Ok(())
    }

    fn caps_money(&self) -> bool {
        self.budgets.caps().caps_money()
    }

    async fn reserve(&self, turn: u32, worst: Spend) -> Result<Option<Reached>, CommitError> {
        let ahead = Ahead {
            run_id: self.run_id,
            user_id: self.user_id,
            epoch: self.epoch,
            turn,
            worst,
        };
        self.budgets.reserve(ahead).await.map_err(away)
    }

    async fn can_pay(&self) -> Result<bool, CommitError> {
        match self.credits {
            None => Ok(true),
            Some(credits) => {
                let asked = credits.may_go_on(self.run_id).await;
                asked.map_err(away)
            }
        }
    }
}

impl FencedLog<'_> {
    /// A store whose writes are frozen is asked again and again with the same result, for as long as the run is held: what a
    /// tool has done must not be done again because it could not be written down.
    async fn written(&self, changes: Vec<Change>) -> Result<Committed, CommandError> {
        loop {
            let tried = self
                .orchestration
                .progress(self.run_id, self.epoch, changes.clone())
                .await;
            match &tried {
                Err(CommandError::Unavailable(fault)) if fault.is_read_only() && self.is_held() => {
                    tracing::warn!(run_id = %self.run_id, "writes are frozen, the result is kept");
                    tokio::time::sleep(FROZEN_PAUSE).await;
                }
                _ => return tried,
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "given to map_err")]
fn away(error: StoreError) -> CommitError {
    no_answer(&error)
}

/// What becomes of the run may be told to its user: that the store failed. How is for the log alone.
fn no_answer(error: &dyn std::error::Error) -> CommitError {
    tracing::warn!(error = %with_sources(error), "the run store gave no answer");
    CommitError::Unavailable(format!("the {error}"))
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
        other => no_answer(&other),
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

/// Announces one run's committed events in their order while the work goes on: at most one announcement is under way, the
/// next one waits for it.
#[derive(Debug)]
pub struct Announcer {
    queue: Queue,
    under_way: Mutex<Option<JoinHandle<()>>>,
}

impl Announcer {
    pub fn new(queue: Queue) -> Self {
        Self {
            queue,
            under_way: Mutex::default(),
        }
    }

    pub async fn announce(&self, events: Vec<Event>) {
        self.finish().await;
        let queue = self.queue.clone();
        let announcement = tokio::spawn(async move { publish(&queue, &events).await });
        *self.locked() = Some(announcement);
    }

    /// Returns when all that was given is announced, or could not be.
    pub async fn finish(&self) {
        let before = self.locked().take();
        if let Some(before) = before
            && let Err(error) = before.await
        {
            tracing::warn!(error = %error, "announcement broke off");
        }
    }

    fn locked(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Announces committed events. A failure costs latency only: streams read the store.
pub async fn publish(queue: &Queue, events: &[Event]) {
    let published = queue.publish(events).await;
    let result = if published.is_ok() { "ok" } else { "error" };
    metrics::counter!("runtime_publish_total", "result" => result).increment(events.len() as u64);
    if let Err(error) = published {
        metrics::counter!("agent_publish_errors_total").increment(1);
        tracing::debug!(error = %error, source = ?error.source().map(ToString::to_string), "events not published");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runs::Fault;

    #[test]
    fn what_the_store_said_is_not_told_to_the_runs_user() {
        let fault = || Fault::Row("ERROR: unsupported Unicode escape sequence".to_owned());
        let told = |error: CommitError| match error {
            CommitError::Unavailable(text) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            told(refusal(CommandError::Database(fault()))),
            "the run store failed"
        );
        assert_eq!(
            told(refusal(CommandError::Unavailable(fault()))),
            "the run store is unavailable"
        );
        assert_eq!(told(away(StoreError::Database(fault()))), "the run store failed");
    }
}
