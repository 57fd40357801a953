//! Live streams: a connection is a cursor over a run's stored events, never a queue.
//!
//! Promise: a connection with cursor `c` gets `c+1, c+2, …` to the run's `complete`, each once and in order. It holds
//! because frames are only ever made from stored rows: messages on the bus merely say "read the store". Order of
//! the hand-off: subscribe (acknowledged), then pages of history, then the ring shared by all viewers of a run.
//! What the bus loses, the [`reconcile`] task finds; so Redis may be away, lossy, doubled or late.
//!
//! [`Tails`] and [`Viewer`] see the store and the bus only through [`EventStore`] and [`LiveBus`].

#[cfg(test)]
mod broken;
pub mod cursor;
pub mod frames;
pub mod message;
pub mod meter;
#[cfg(test)]
mod model;
pub mod reconcile;
pub mod tail;
pub mod tails;
pub mod viewer;

pub use tail::Sizes;
pub use tails::Tails;
pub use viewer::{Pace, Viewer};

use domain::{Event, RunId};
use std::future::Future;
use std::sync::Arc;

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

/// Notices of events, at most once each, in any order.
pub trait LiveBus: Clone + Send + Sync + 'static {
    type Feed: Feed;

    /// Resolves when the subscription is in force; or after a short while without it, and then the feed's next
    /// notice is [`Notice::Lost`] as soon as it is. Dropping the feed ends it.
    fn subscribe(&self, run: RunId) -> impl Future<Output = Self::Feed> + Send;

    /// Whether notices can be expected at present.
    fn connected(&self) -> bool;
}

/// The notices of one run.
pub trait Feed: Send + 'static {
    /// The next notice; waits for ever when nothing comes.
    fn next(&mut self) -> impl Future<Output = Notice> + Send;
}

/// What a feed says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A message as it was published, by whomever.
    Message(Arc<str>),
    /// Messages may have been lost: read the store.
    Lost,
}
