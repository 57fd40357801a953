//! One cheap look at the whole queue, in one script: what readiness, metrics and operators ask.

use crate::connection::Patience;
use crate::error::QueueError;
use crate::queue::{Depths, Queue};
use crate::reply::Reply;
use crate::script;
use crate::store::Store;
use jiff::Timestamp;
use serde::Deserialize;

/// The queue at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Glance {
    pub depths: Depths,
    /// How long the eldest job of the high-priority and the pending list has waited; nothing when both are empty
    /// or their eldest were pushed by hand without a time.
    pub oldest_pending_age_ms: Option<u64>,
    /// Elements of `jobs:processing` without a lease, and leases without an element there.
    pub orphans: u64,
    /// Claiming is paused.
    pub paused: bool,
    /// Every known job is one element, every retry has one due time, every held job one lease.
    pub(crate) counts_agree: bool,
}

impl Glance {
    /// The `queue` object of `/readyz`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "oldest_pending_age_seconds": self.oldest_pending_age_ms.map(|ms| ms as f64 / 1000.0),
            "pending": self.depths.pending,
            "orphans": self.orphans,
            "paused": self.paused,
        })
    }
}

impl Queue {
    /// Asks within a second, also while Redis is away.
    pub async fn glance(&self) -> Result<Glance, QueueError> {
        glance(&self.store).await
    }
}

pub(crate) async fn glance(store: &Store) -> Result<Glance, QueueError> {
    read(
        store
            .run_within(&script::GLANCE, Vec::new(), Patience::Brief)
            .await?,
    )
}

fn read(answer: Reply) -> Result<Glance, QueueError> {
    let unexpected = || QueueError::Unexpected { operation: "glance" };
    let mut parts = answer.rows()?;
    let eldest = parts.split_off(parts.len().saturating_sub(2));
    let numbers = parts
        .into_iter()
        .map(Reply::number)
        .collect::<Result<Vec<_>, _>>()?;
    let [
        now_ms,
        high,
        pending,
        processing,
        retry,
        failed,
        meta,
        body,
        due,
        leases,
        orphans,
        paused,
    ] = numbers[..]
    else {
        return Err(unexpected());
    };
    let elements = high + pending + processing + retry + failed;
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let mut oldest: Option<i64> = None;
    for text in eldest {
        let enqueued_ms = enqueued_at(&text.bytes()?).map(Timestamp::as_millisecond);
        oldest = oldest.into_iter().chain(enqueued_ms).min();
    }
    Ok(Glance {
        depths: Depths {
            high_priority: count(high),
            pending: count(pending),
            processing: count(processing),
            retry: count(retry),
            failed: count(failed),
        },
        oldest_pending_age_ms: oldest.map(|at| count(now_ms - at)),
        orphans: count(orphans),
        paused: paused == 1,
        counts_agree: elements == meta && meta == body && retry == due && processing == leases,
    })
}

fn enqueued_at(text: &[u8]) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Enqueued {
        enqueued_at: Timestamp,
    }
    serde_json::from_slice::<Enqueued>(text)
        .ok()
        .map(|job| job.enqueued_at)
}
