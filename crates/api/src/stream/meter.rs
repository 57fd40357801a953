//! What streams count. Handles are looked up once: a delivery costs an addition.

use metrics::{Counter, Gauge, Histogram};
use std::sync::atomic::{AtomicU64, Ordering};

/// Why the store was read beside the ordinary course.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A message is ahead by more than one: others were lost, or come later.
    Hole,
    /// The bus said that messages may have been lost.
    Reconnect,
    /// The comparison with the store found it.
    Reconcile,
    /// A viewer fell out of the ring.
    RingMiss,
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    Complete,
    Shutdown,
    Interrupted,
    /// The connection went: by the client, or because it took nothing any more.
    Gone,
}

/// The streams' metrics.
#[derive(Debug)]
pub struct Meter {
    pub subscribers: Gauge,
    pub runs_watched: Gauge,
    pub delivered: Counter,
    pub deliver_lag: Histogram,
    pub replay_pages: Counter,
    pub ring_bytes: Gauge,
    pub bus_connected: Gauge,
    fills: [Counter; 4],
    closed: [Counter; 4],
    violations: Counter,
    violated: AtomicU64,
}

impl Meter {
    pub fn new() -> Self {
        let fill = |cause: &'static str| metrics::counter!("stream_gap_fills_total", "cause" => cause);
        let closed = |reason: &'static str| metrics::counter!("stream_closed_total", "reason" => reason);
        Self {
            subscribers: metrics::gauge!("stream_subscribers"),
            runs_watched: metrics::gauge!("stream_runs_watched"),
            delivered: metrics::counter!("stream_events_delivered_total"),
            deliver_lag: metrics::histogram!("stream_deliver_lag_seconds"),
            replay_pages: metrics::counter!("stream_replay_pages_total"),
            ring_bytes: metrics::gauge!("stream_ring_bytes"),
            bus_connected: metrics::gauge!("bus_connected"),
            fills: ["hole", "reconnect", "reconcile", "ring_miss"].map(fill),
            closed: ["complete", "shutdown", "interrupted", "gone"].map(closed),
            violations: metrics::counter!("stream_invariant_violations_total"),
            violated: AtomicU64::new(0),
        }
    }

    pub fn fill(&self, cause: Cause) {
        self.fills[cause as usize].increment(1);
    }

    pub fn closed(&self, reason: Closed) {
        self.closed[reason as usize].increment(1);
    }

    /// Something happened that the design excludes; must stay 0.
    pub fn violation(&self) {
        self.violations.increment(1);
        self.violated.fetch_add(1, Ordering::Relaxed);
    }

    /// Violations of this process.
    pub fn violated(&self) -> u64 {
        self.violated.load(Ordering::Relaxed)
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}
