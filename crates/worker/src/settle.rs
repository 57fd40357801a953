//! What becomes of a job: first the run in Postgres, then the entry in Redis. A crash between the two leaves an
//! entry whose run says otherwise; the next claim or the reconciler puts that right.

use crate::backoff::Backoff;
use crate::log::{publish, with_sources};
use agent::driver::Outcome;
use domain::Redactor;
use domain::command::{Expiry, Release};
use domain::ids::RunId;
use domain::waiting::RetryCause;
use queue::{BuryReason, Delivery, Queue, QueueError, Settled};
use runs::{CommandError, Committed, Orchestration};
use std::time::{Duration, Instant};

/// How long a release is tried while Postgres is away. After that the leases run out and the run is taken over.
const RELEASE_PATIENCE: Duration = Duration::from_mins(1);
const RELEASE_PAUSE: Duration = Duration::from_millis(500);

/// Why an attempt failed, and when the next one may come.
struct Failure {
    error: String,
    cause: RetryCause,
    retry_after: Option<Duration>,
}

/// Settles jobs; the returned word is the `status` label of `agent_jobs_processed_total`.
#[derive(Debug)]
pub struct Settle<'a> {
    pub orchestration: &'a Orchestration,
    pub queue: &'a Queue,
    pub backoff: Backoff,
    /// Errors are shown in the queue's entries.
    pub redactor: &'a Redactor,
}

impl Settle<'_> {
    /// After a drive.
    pub async fn outcome(&self, delivery: Delivery, epoch: i64, outcome: Outcome) -> &'static str {
        match outcome {
            Outcome::Finished(status) => {
                let failed = status != domain::RunStatus::Completed;
                let name = if failed {
                    "agent_jobs_failed_total"
                } else {
                    "agent_jobs_completed_total"
                };
                metrics::counter!(name).increment(1);
                self.drop_entry(delivery).await;
                status.as_str()
            }
            // The commit that asked the user has let go already.
            Outcome::Waiting => self.dropped(delivery, "waiting").await,
            Outcome::EndedElsewhere => self.dropped(delivery, "cancelled").await,
            Outcome::Paused => {
                self.release(delivery.job.run_id, epoch, Release::Done).await;
                self.dropped(delivery, "paused").await
            }
            // Whoever holds it now settles it; an entry without owner comes back when its lease runs out.
            Outcome::LeaseLost => "lost",
            Outcome::HandedBack => {
                self.release(delivery.job.run_id, epoch, Release::HandBack).await;
                self.hand_back(delivery).await
            }
            Outcome::PermanentError { error } => {
                metrics::counter!("agent_jobs_failed_total").increment(1);
                self.bury(delivery, BuryReason::PermanentError, &error).await
            }
            Outcome::Retry {
                error,
                cause,
                retry_after,
            } => {
                let failure = Failure {
                    error,
                    cause,
                    retry_after,
                };
                self.retry(delivery, epoch, failure).await
            }
        }
    }

    async fn retry(&self, mut delivery: Delivery, epoch: i64, failure: Failure) -> &'static str {
        let run_id = delivery.job.run_id;
        let Failure {
            error,
            cause,
            retry_after,
        } = failure;
        let Some(state) = self.state(run_id, epoch).await else {
            return "lost";
        };
        if state.0 >= state.1 {
            return self.expire(delivery, Expiry::MaxAttempts, &error).await;
        }
        let after = self.backoff.delay(state.0 + 1, retry_after, &mut rand::rng());
        tracing::warn!(run_id = %run_id, error, after_ms = after.as_millis() as u64, "attempt failed, will retry");
        let release = Release::Retry {
            after_ms: after.as_millis() as i64,
            error: error.clone(),
            cause,
        };
        let Some(committed) = self.release(run_id, epoch, release).await else {
            return "lost";
        };
        // The entry counts on from what Postgres counts.
        delivery.job.retry_count = state.0;
        delivery.job.attempt = state.0 + 1;
        if committed.retry_job.is_some() {
            report(run_id, delivery.retry(after, &self.redactor.text(&error)).await);
        }
        "retried"
    }

    /// Retries used and allowed, when the claim is still good.
    async fn state(&self, run_id: RunId, epoch: i64) -> Option<(u32, u32)> {
        let committed = self
            .patiently(run_id, || self.orchestration.progress(run_id, epoch, vec![]))
            .await?;
        Some((committed.run.retry_count, committed.run.max_retries))
    }

    /// Ends the run for a limit of the platform and buries its job.
    pub async fn expire(&self, delivery: Delivery, expiry: Expiry, error: &str) -> &'static str {
        let run_id = delivery.job.run_id;
        let reason = if expiry == Expiry::Poison {
            BuryReason::Poison
        } else {
            BuryReason::MaxAttempts
        };
        if let Some(committed) = self
            .patiently(run_id, || {
                self.orchestration.expire_because(run_id, expiry, Some(error))
            })
            .await
        {
            publish(self.queue, &committed.events).await;
        }
        metrics::counter!("agent_jobs_failed_total").increment(1);
        self.bury(delivery, reason, error).await
    }

    async fn release(&self, run_id: RunId, epoch: i64, release: Release) -> Option<Committed> {
        let committed = self
            .patiently(run_id, || {
                self.orchestration.release(run_id, epoch, release.clone())
            })
            .await?;
        publish(self.queue, &committed.events).await;
        Some(committed)
    }

    /// Tries again while Postgres is away; nothing when the command was refused or patience ran out.
    async fn patiently<F>(&self, run_id: RunId, command: impl Fn() -> F) -> Option<Committed>
    where
        F: Future<Output = Result<Committed, CommandError>>,
    {
        let until = Instant::now() + RELEASE_PATIENCE;
        loop {
            match command().await {
                Ok(committed) => return Some(committed),
                Err(CommandError::Unavailable(_)) if Instant::now() < until => {
                    tokio::time::sleep(RELEASE_PAUSE).await;
                }
                Err(error) => {
                    tracing::info!(run_id = %run_id, error = %with_sources(&error), "command to the run refused");
                    return None;
                }
            }
        }
    }

    /// The entry leaves the queue.
    pub async fn drop_entry(&self, delivery: Delivery) {
        let run_id = delivery.job.run_id;
        report(run_id, delivery.ack().await);
    }

    async fn dropped(&self, delivery: Delivery, status: &'static str) -> &'static str {
        self.drop_entry(delivery).await;
        status
    }

    /// To the front of its line, attempt unchanged.
    pub async fn hand_back(&self, delivery: Delivery) -> &'static str {
        let run_id = delivery.job.run_id;
        report(run_id, delivery.hand_back().await);
        "handed_back"
    }

    /// To the dead letters.
    pub async fn bury(&self, delivery: Delivery, reason: BuryReason, error: &str) -> &'static str {
        let run_id = delivery.job.run_id;
        tracing::error!(run_id = %run_id, reason = reason.as_str(), error, "job buried");
        let line = format!("{run_id} buried: {}", reason.as_str());
        if let Err(fault) = self.queue.debug_line(&line).await {
            tracing::debug!(error = %fault, "debug line not written");
        }
        report(run_id, delivery.bury(reason, &self.redactor.text(error)).await);
        "buried"
    }
}

fn report(run_id: RunId, settled: Result<Settled, QueueError>) {
    match settled {
        Ok(Settled::Done) => {}
        Ok(other) => {
            tracing::debug!(run_id = %run_id, settled = ?other, "queue entry was not ours any more");
        }
        Err(error) => {
            tracing::warn!(run_id = %run_id, error = %with_sources(&error), "queue entry not settled");
        }
    }
}
