//! Live events of runs, and the workers' control channel.

use crate::bus::{Bus, Signal, Watcher};
use crate::error::QueueError;
use crate::keys::{CONTROL_CHANNEL, log_channel};
use crate::options::RedisOptions;
use domain::RunId;
use tokio::sync::watch;

/// Live events of all watched runs over one connection per process; cheap to clone.
#[derive(Debug, Clone)]
pub struct LiveBus(Bus);

impl LiveBus {
    /// Returns at once, also while Redis is away. Must be called inside a runtime.
    pub fn connect(options: &RedisOptions) -> Result<Self, QueueError> {
        Bus::open(options, "live").map(Self)
    }

    /// Watches a run's channel. Returns when the server has acknowledged the subscription, at the latest after
    /// 500 ms; when it is still pending then, [`Signal::Dirty`] follows as soon as it stands. Subscribe before
    /// reading the store.
    pub async fn subscribe(&self, run_id: RunId) -> LiveSubscription {
        LiveSubscription(self.0.watch(log_channel(run_id)).await)
    }

    /// True while Redis is there and all subscriptions stand; false means: poll the store.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.0.connected()
    }
}

/// The live signals of one run for one watcher. Watchers of the same run share one Redis subscription, which
/// lasts 10 s longer than the last of them.
#[derive(Debug)]
pub struct LiveSubscription(Watcher);

impl LiveSubscription {
    /// The next signal; waits for ever when nothing comes. May be dropped at any time.
    pub async fn next(&mut self) -> Signal {
        self.0.next().await
    }
}

/// What a worker hears on the control channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlSignal {
    /// Look at this run in Postgres now (cancelled, paused).
    Run(RunId),
    /// Signals may have been lost: look at all runs in hand.
    Dirty,
}

/// The control channel with a connection of its own.
#[derive(Debug)]
pub struct Control(Watcher);

impl Control {
    /// Returns within 500 ms, also while Redis is away.
    pub async fn connect(options: &RedisOptions) -> Result<Self, QueueError> {
        let bus = Bus::open(options, "control")?;
        Ok(Self(bus.watch(CONTROL_CHANNEL.to_owned()).await))
    }

    /// The next signal; texts that are no run id are passed over. May be dropped at any time.
    pub async fn next(&mut self) -> ControlSignal {
        loop {
            match self.0.next().await {
                Signal::Dirty => return ControlSignal::Dirty,
                Signal::Message(text) => {
                    if let Ok(run_id) = text.trim().parse() {
                        return ControlSignal::Run(run_id);
                    }
                    tracing::debug!("control message is no run id");
                }
            }
        }
    }
}
