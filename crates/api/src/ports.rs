//! The stream core's two ports, over Postgres and Redis.

use crate::stream::{EventStore, LiveBus, Tails};
use domain::{Clock, Event, RunId};
use runs::{Fault, Reader, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longest wait for one read: a store that hangs is a store that is away.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Events from Postgres.
#[derive(Debug, Clone)]
pub struct RunEvents(pub Reader);

async fn in_time<T>(read: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let slow = |_| {
        Err(StoreError::Unavailable(Fault::Slow(
            READ_TIMEOUT.as_millis() as u64
        )))
    };
    tokio::time::timeout(READ_TIMEOUT, read)
        .await
        .unwrap_or_else(slow)
}

impl EventStore for RunEvents {
    type Error = StoreError;

    async fn page(&self, run: RunId, after: i64, limit: usize) -> Result<Vec<Event>, StoreError> {
        in_time(self.0.events_after(run, after, limit as u32)).await
    }

    async fn heads(&self, runs: &[RunId]) -> Result<Vec<(RunId, i64)>, StoreError> {
        let heads = in_time(self.0.heads(runs)).await?;
        Ok(heads
            .into_iter()
            .map(|head| (head.run_id, head.last_seq))
            .collect())
    }
}

/// Notices from Redis; none where Redis is not configured, and then the reconciler finds everything.
#[derive(Debug, Clone)]
pub struct RedisBus;

impl LiveBus for RedisBus {
    async fn subscribe(&self, _run: RunId) -> bool {
        false
    }

    async fn unsubscribe(&self, _run: RunId) {}

    fn connected(&self) -> bool {
        false
    }
}
