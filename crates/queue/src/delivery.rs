//! A claimed job: whoever holds a [`Delivery`] holds the lease, and settles it exactly once by consuming it.
//!
//! Every settlement is one script that compares the claim's epoch, so a worker that lost its lease changes
//! nothing. Settlements are idempotent and repeated here when Redis is away for a moment.

use crate::error::QueueError;
use crate::keys::ListName;
use crate::reply::{Reply, arg};
use crate::script;
use crate::store::Store;
use domain::breakage::{self, Breakage};
use domain::{Job, JobId};
use fred::types::Value;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// How long a settlement is tried while Redis is away; by then the lease has run out anyway.
const SETTLE_PATIENCE: Duration = Duration::from_secs(10);
const SETTLE_PAUSE_MIN: Duration = Duration::from_millis(50);
const SETTLE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Done.
    Done,
    /// Refused: the lease was lost and another claim was made since.
    Stale,
    /// Redis does not know the job (removed, or all data was lost). Nothing was changed; Postgres decides.
    Gone,
}

impl Settled {
    fn parse(reply: Reply) -> Result<Self, QueueError> {
        match reply.text()?.as_str() {
            "ok" => Ok(Self::Done),
            "stale" => Ok(Self::Stale),
            "gone" => Ok(Self::Gone),
            _ => Err(QueueError::Unexpected { operation: "settle" }),
        }
    }
}

/// Why a job is in the dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BuryReason {
    Undecodable,
    UnknownRun,
    PermanentError,
    MaxAttempts,
    Poison,
}

impl BuryReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "undecodable",
            Self::UnknownRun => "unknown_run",
            Self::PermanentError => "permanent_error",
            Self::MaxAttempts => "max_attempts",
            Self::Poison => "poison",
        }
    }
}

/// A claimed job with its lease.
#[derive(Debug)]
#[must_use = "an unsettled delivery comes back when its lease runs out, and counts as a crash"]
pub struct Delivery {
    /// The job; [`Delivery::retry`] and [`Delivery::bury`] write it as it is here.
    pub job: Job,
    /// Exact text of the element in `jobs:processing`; a renewal passes it on.
    pub raw: String,
    /// Number of this claim. Grows with every claim of the job, also after Redis lost its data.
    pub epoch: i64,
    /// How often the job was handed out since it last ended an attempt or settled a step, this time included:
    /// one more than the crashes in a row.
    pub deliveries: u32,
    /// Pushed by hand, not by a producer of ours: the job id is not known to Postgres.
    pub foreign: bool,
    pub(crate) store: Store,
}

impl Delivery {
    pub fn job_id(&self) -> JobId {
        self.job.job_id
    }

    /// What the lease renewal needs to know of this claim.
    pub fn claim(&self) -> crate::renewer::HeldClaim {
        crate::renewer::HeldClaim {
            job_id: self.job.job_id,
            epoch: self.epoch,
            raw: self.raw.clone(),
            high_priority: self.job.priority > 0,
            step_settled: false,
        }
    }

    /// The job is done with: it leaves the queue.
    pub async fn ack(self) -> Result<Settled, QueueError> {
        let args = vec![arg(self.job.job_id), arg(self.epoch)];
        let [status] = self.settle(&script::ACK, args).await?.tuple()?;
        Settled::parse(status)
    }

    /// The job's next attempt after a delay, counted from the server's clock. The element in `jobs:retry` shows
    /// the next attempt's number, `last_error` and `retry_at`.
    pub async fn retry(self, after: Duration, error: &str) -> Result<Settled, QueueError> {
        let text = text_of(&self.job.next_attempt())?;
        let before = format!(r#","last_error":{},"retry_at":""#, json!(error));
        let delay_ms = after.as_millis();
        self.release(Target::Retry { delay_ms }, text, before, "\"".to_owned())
            .await
    }

    /// To the dead letters, with `failed_at`, `error` and `reason`.
    pub async fn bury(self, reason: BuryReason, error: &str) -> Result<Settled, QueueError> {
        let text = text_of(&self.job)?;
        let after = format!(r#"","error":{},"reason":"{}""#, json!(error), reason.as_str());
        self.release(Target::Failed, text, r#","failed_at":""#.to_owned(), after)
            .await
    }

    /// Back to the front of its line; neither the attempt nor the delivery counts.
    pub async fn hand_back(self) -> Result<Settled, QueueError> {
        let text = self.raw.clone();
        self.release(Target::Home, text, String::new(), String::new())
            .await
    }

    /// Makes the element in `jobs:processing` show [`Delivery::job`] as it is now, for example the attempt
    /// number that a take-over counted. The job id must not change.
    pub async fn rewrite(&mut self) -> Result<Settled, QueueError> {
        let text = text_of(&self.job)?;
        let id = arg(self.job.job_id);
        let home = arg(ListName::home(self.job.priority).code());
        let args = vec![id.clone(), arg(self.epoch), id, home, arg(&text), arg("")];
        let settled = Settled::parse(self.settle(&script::REWRITE, args).await?)?;
        if settled == Settled::Done {
            self.raw = text;
        }
        Ok(settled)
    }

    async fn release(
        self,
        target: Target,
        text: String,
        before: String,
        after: String,
    ) -> Result<Settled, QueueError> {
        let (target, delay_ms) = target.args();
        let args = vec![
            arg(self.job.job_id),
            arg(self.epoch),
            arg(target),
            arg(delay_ms),
            arg(text),
            arg(before),
            arg(after),
        ];
        Settled::parse(self.settle(&script::RELEASE, args).await?)
    }

    async fn settle(&self, script: &script::Script, args: Vec<Value>) -> Result<Reply, QueueError> {
        let args = if breakage::is(Breakage::SettleWithoutEpoch) {
            crate::broken::with_present_epoch(&self.store, args).await
        } else {
            args
        };
        let deadline = Instant::now() + SETTLE_PATIENCE;
        let mut pause = SETTLE_PAUSE_MIN;
        loop {
            match self.store.run(script, args.clone()).await {
                Err(fault) if fault.is_unavailable() && Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(SETTLE_PAUSE_MAX);
                }
                answer => return answer,
            }
        }
    }
}

/// Acknowledges many jobs in one call; one stale job does not hold up the others.
pub async fn ack_all(deliveries: Vec<Delivery>) -> Result<Vec<Settled>, QueueError> {
    let Some(first) = deliveries.first() else {
        return Ok(Vec::new());
    };
    let args = deliveries
        .iter()
        .flat_map(|delivery| [arg(delivery.job.job_id), arg(delivery.epoch)])
        .collect();
    let answer = first.settle(&script::ACK, args).await?;
    answer.rows()?.into_iter().map(Settled::parse).collect()
}

enum Target {
    Retry { delay_ms: u128 },
    Failed,
    Home,
}

impl Target {
    fn args(&self) -> (&'static str, u128) {
        match self {
            Self::Retry { delay_ms } => (ListName::Retry.code(), *delay_ms),
            Self::Failed => (ListName::Failed.code(), 0),
            Self::Home => ("home", 0),
        }
    }
}

/// The element of a job: one line of JSON in the order of [`Job`]'s fields.
pub(crate) fn text_of(job: &Job) -> Result<String, QueueError> {
    serde_json::to_string(job).map_err(|_| QueueError::Unexpected { operation: "encode" })
}
