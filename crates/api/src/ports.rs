//! The stream core's two ports, over Postgres and Redis.

use crate::stream::{EventStore, Feed, LiveBus, Notice};
use domain::{Event, Redactor, RunId};
use runs::{Fault, Reader, StoreError};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

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
pub struct RedisBus {
    bus: Option<queue::LiveBus>,
    redactor: Arc<Redactor>,
}

impl RedisBus {
    /// Messages anybody published pass the redactor: some are shown as they come.
    pub fn new(bus: Option<queue::LiveBus>, redactor: Arc<Redactor>) -> Self {
        Self { bus, redactor }
    }
}

/// The notices of one run's channel.
#[derive(Debug)]
pub struct RedisFeed {
    subscription: Option<queue::LiveSubscription>,
    redactor: Arc<Redactor>,
}

impl LiveBus for RedisBus {
    type Feed = RedisFeed;

    async fn subscribe(&self, run: RunId) -> RedisFeed {
        let subscription = match &self.bus {
            Some(bus) => Some(bus.subscribe(run).await),
            None => None,
        };
        RedisFeed {
            subscription,
            redactor: self.redactor.clone(),
        }
    }

    fn connected(&self) -> bool {
        self.bus.as_ref().is_some_and(|bus| *bus.connected().borrow())
    }
}

impl Feed for RedisFeed {
    async fn next(&mut self) -> Notice {
        match &mut self.subscription {
            Some(subscription) => match subscription.next().await {
                queue::Signal::Message(text) => match self.redactor.text(&text) {
                    Cow::Borrowed(_) => Notice::Message(text),
                    Cow::Owned(redacted) => Notice::Message(redacted.into()),
                },
                queue::Signal::Dirty => Notice::Lost,
            },
            None => std::future::pending().await,
        }
    }
}
