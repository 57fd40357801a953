//! Live streams: a connection is a cursor over a run's stored events, never a queue.
//!
//! Promise: a connection with cursor `c` gets `c+1, c+2, …` to the run's `complete`, each once and in order. It holds
//! because frames are only ever made from stored rows: messages on the bus merely say "read the store". Order of
//! the hand-off: subscribe (acknowledged), then pages of history, then the ring shared by all viewers of a run.
//! What the bus loses, the [`reconcile`] task finds; so Redis may be away, lossy, doubled or late.
//!
//! [`Tails`] and [`Viewer`] see the store and the bus only through [`EventStore`] and [`LiveBus`].

pub mod cursor;
pub mod frames;
pub mod message;
pub mod reconcile;
pub mod tail;
pub mod viewer;

pub use tail::Tails;
pub use viewer::{Pace, Viewer};

use domain::{Event, RunId};
use std::future::Future;

/// Committed events; visibility order is seq order.
pub trait EventStore: Clone + Send + Sync + 'static {
    type Error: std::error::Error + Send + Sync + 'static;

    /// At most `limit` events with `seq > after`, by seq.
    fn page(
        &self,
        run: RunId,
        after: i64,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Event>, Self::Error>> + Send;

    /// Newest seq of each of these runs; unknown ones are left out.
    fn heads(&self, runs: &[RunId]) -> impl Future<Output = Result<Vec<(RunId, i64)>, Self::Error>> + Send;
}

/// Notices of events, at most once each, in any order. Subscriptions are counted per run.
pub trait LiveBus: Clone + Send + Sync + 'static {
    /// Resolves when the subscription is in force (`true`), or could not be made (`false`).
    fn subscribe(&self, run: RunId) -> impl Future<Output = bool> + Send;

    fn unsubscribe(&self, run: RunId) -> impl Future<Output = ()> + Send;

    /// Whether notices can be expected at present.
    fn connected(&self) -> bool;
}
