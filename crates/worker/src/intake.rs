//! From the queue to tasks: a permit first, then a claim, then a tracked task that owns the permit.

use crate::job_processor::JobProcessor;
use bootstrap::Shutdown;
use domain::WriteMode;
use queue::{Consumer, Delivery};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Pause after a failed claim; the queue's client reconnects meanwhile.
const CLAIM_PAUSE: Duration = Duration::from_millis(250);

/// How the job loop moves, in milliseconds since the start: its last turn, and its last answer from Redis; whether the
/// watchdog has given it up; and the beat of the runtime it lives in.
#[derive(Debug, Clone)]
pub struct Progress {
    start: Instant,
    turned_ms: Arc<AtomicU64>,
    answered_ms: Arc<AtomicU64>,
    given_up: Arc<AtomicBool>,
    beats: Arc<AtomicU64>,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            turned_ms: Arc::default(),
            answered_ms: Arc::default(),
            given_up: Arc::default(),
            beats: Arc::default(),
        }
    }
}

impl Progress {
    /// The loop went round, whatever Redis said.
    fn turned(&self) {
        self.turned_ms
            .store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Redis answered a claim, or no claim was due because every place is taken.
    fn answered(&self) {
        self.turned();
        self.answered_ms
            .store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn since(&self, mark: &AtomicU64) -> Duration {
        self.start
            .elapsed()
            .saturating_sub(Duration::from_millis(mark.load(Ordering::Relaxed)))
    }

    /// Time since the loop last went round: what liveness is tied to. An outage of Redis does not stop the loop.
    pub fn stood_still_for(&self) -> Duration {
        self.since(&self.turned_ms)
    }

    /// Time since the last completed claim round trip: what the watchdog looks at.
    pub fn unanswered_for(&self) -> Duration {
        self.since(&self.answered_ms)
    }

    /// The watchdog ends the process, because the loop is stuck.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// The runtime has run one of its tasks.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Changes at least every second while the runtime is not blocked. A number and no time: a process that was frozen
    /// as a whole and woke up is not blocked.
    pub fn beat_of_runtime(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }
}

/// Takes jobs until the soft token fires.
#[derive(Debug)]
pub struct Intake {
    pub consumer: Consumer,
    pub processor: Arc<JobProcessor>,
    pub shutdown: Shutdown,
    pub concurrency: u32,
    pub write_mode: WriteMode,
    pub progress: Progress,
}

impl Intake {
    pub async fn run(mut self) -> Result<(), std::convert::Infallible> {
        let permits = Arc::new(Semaphore::new(self.concurrency as usize));
        let soft = self.shutdown.soft();
        if !self.write_mode.may_write() {
            self.rest().await;
        }
        while !soft.is_cancelled() {
            let Some(permit) = self.permit(&permits).await else {
                break;
            };
            let wanted = 1 + permits.available_permits();
            match self.consumer.claim(wanted).await {
                Ok(deliveries) if deliveries.is_empty() => {
                    self.progress.answered();
                    drop(permit);
                    tokio::select! {
                        () = soft.cancelled() => {}
                        () = self.consumer.wait() => {}
                    }
                }
                Ok(deliveries) => {
                    self.progress.answered();
                    self.start(deliveries, permit, &permits);
                }
                Err(error) => {
                    self.progress.turned();
                    tracing::warn!(error = %crate::log::with_sources(&error), "claim failed");
                    drop(permit);
                    tokio::time::sleep(CLAIM_PAUSE).await;
                }
            }
        }
        Ok(())
    }

    /// Another authority writes: no job is taken until the end, and probes see that the loop is alive.
    async fn rest(&self) {
        tracing::warn!(
            mode = self.write_mode.as_str(),
            "authority writes are disabled, no job is taken"
        );
        let soft = self.shutdown.soft();
        while !soft.is_cancelled() {
            self.progress.answered();
            tokio::select! {
                () = soft.cancelled() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    /// A free place; while all are taken the loop is alive and says so.
    async fn permit(&self, permits: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        let soft = self.shutdown.soft();
        loop {
            tokio::select! {
                () = soft.cancelled() => return None,
                permit = permits.clone().acquire_owned() => return permit.ok(),
                () = tokio::time::sleep(Duration::from_secs(1)) => self.progress.answered(),
            }
        }
    }

    fn start(&self, deliveries: Vec<Delivery>, first: OwnedSemaphorePermit, permits: &Arc<Semaphore>) {
        let mut permit = Some(first);
        for delivery in deliveries {
            // No more than the free places were claimed, and only this loop takes them.
            let place = permit.take().or_else(|| permits.clone().try_acquire_owned().ok());
            let processor = self.processor.clone();
            let (soft, hard) = (self.shutdown.soft(), self.shutdown.hard());
            self.shutdown.track(async move {
                processor.process(delivery, soft, hard).await;
                drop(place);
            });
        }
    }
}
