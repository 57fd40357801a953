//! Whether somebody takes jobs: what a run in line can be told.

use crate::connection::{Patience, measured};
use crate::error::QueueError;
use crate::keys::ListName;
use crate::queue::Queue;
use fred::interfaces::{KeysInterface, ListInterface, SortedSetsInterface};
use jiff::Timestamp;

/// A worker beats every 3 s; one that has not for this long is gone.
const BEAT_AGE_MS: i64 = 10_000;

/// The way in for jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intake {
    /// Claiming is stopped by an operator.
    pub paused: bool,
    /// Workers that have beaten lately.
    pub workers: u64,
    /// Jobs in the high-priority and the pending list.
    pub waiting: u64,
}

impl Queue {
    /// One round trip; fails within a second when Redis is away.
    pub async fn intake(&self, now: Timestamp) -> Result<Intake, QueueError> {
        let keys = self.store.keys();
        let pipeline = self.store.connection().with(Patience::Brief).pipeline();
        let since = (now.as_millisecond() - BEAT_AGE_MS) as f64;
        let queued = async {
            let () = pipeline.exists(keys.named("paused")).await?;
            let () = pipeline
                .zcount(keys.named("workers"), since, f64::INFINITY)
                .await?;
            for list in [ListName::HighPriority, ListName::Pending] {
                let () = pipeline.llen(keys.list(list)).await?;
            }
            pipeline.all::<Vec<u64>>().await
        };
        let [paused, workers, high, pending] = measured("intake", queued).await?[..] else {
            return Err(QueueError::Unexpected { operation: "intake" });
        };
        Ok(Intake {
            paused: paused == 1,
            workers,
            waiting: high + pending,
        })
    }
}
