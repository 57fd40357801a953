//! What follows a commit: job into Redis, events to the channels, the old job out, a signal to the worker.
//!
//! The commit is the truth and is never undone. Everything here is a shortcut: what fails is repeated by the
//! outbox relay and the reconcilers. So Redis may be away or hang: an answer waits for it at most [`PATIENCE`].

use domain::{Event, Job, JobId, RunId};
use futures::future::join;
use queue::Queue;
use runs::{Committed, Outbox};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Longest wait of a request for Redis.
const PATIENCE: Duration = Duration::from_millis(250);
/// Between two rounds of the relay.
const RELAY_INTERVAL: Duration = Duration::from_secs(3);
/// Jobs younger than this are left to the request that made them.
const RELAY_AGE: Duration = Duration::from_secs(2);
/// Jobs per round of the relay.
const RELAY_BATCH: u32 = 200;
/// Outbox rows of pushed jobs are deleted together after this time: a commit for each would cost as much as the run's own.
/// Far below the age at which a relay pushes again.
const SENT_LINGER: Duration = Duration::from_millis(10);
/// Most pushed jobs that wait for the deletion of their rows; what is more is deleted at once.
const SENT_MOST: usize = 1_000;
/// Longest wait of the shutdown for the last deletion; a relay does what it does not.
const SENT_LAST_LIMIT: Duration = Duration::from_secs(1);

/// The way from a commit to Redis. Cheap clone.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// None without Redis settings (internal surface alone).
    queue: Option<Queue>,
    outbox: Outbox,
    sent: Arc<Sent>,
}

/// Jobs that were pushed and whose outbox rows are still there.
#[derive(Debug, Default)]
struct Sent {
    /// None while nobody deletes the rows in the background.
    jobs: Mutex<Option<Vec<JobId>>>,
    more: Notify,
}

impl Sent {
    fn locked(&self) -> MutexGuard<'_, Option<Vec<JobId>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when the caller must delete the row itself.
    fn add(&self, job: JobId) -> bool {
        let mut jobs = self.locked();
        let Some(jobs) = jobs.as_mut().filter(|jobs| jobs.len() < SENT_MOST) else {
            return false;
        };
        jobs.push(job);
        self.more.notify_one();
        true
    }
}

impl Delivery {
    pub fn new(queue: Option<Queue>, outbox: Outbox) -> Self {
        Self {
            queue,
            outbox,
            sent: Arc::default(),
        }
    }

    fn usable(&self) -> Option<&Queue> {
        self.queue.as_ref().filter(|queue| queue.is_connected())
    }

    /// After a command's commit. `signal`: tell the worker that holds the run to look at it now.
    pub async fn deliver(&self, committed: &Committed, signal: bool) {
        let count = committed.events.len();
        let Some(queue) = self.usable() else {
            return count_published(count, false);
        };
        let signal = signal.then_some(committed.run.id);
        let job = committed.enqueue.as_ref();
        let announced = announce(queue, &committed.events, committed.remove_job, signal);
        // The client's futures are large; on the heap they cost idle requests nothing.
        let work = join(Box::pin(self.enqueue(queue, job)), Box::pin(announced));
        if let Ok(((), published)) = tokio::time::timeout(PATIENCE, work).await {
            count_published(count, published);
        } else {
            count_published(count, false);
            tracing::warn!(run_id = %committed.run.id, "redis is slow, left to the relay");
        }
    }

    /// Publishes events that need nothing else.
    pub async fn publish(&self, events: &[Event]) {
        let Some(queue) = self.usable() else {
            return count_published(events.len(), false);
        };
        let published = tokio::time::timeout(PATIENCE, queue.publish(events)).await;
        count_published(events.len(), matches!(published, Ok(Ok(()))));
    }

    async fn enqueue(&self, queue: &Queue, job: Option<&Job>) {
        let Some(job) = job else { return };
        match queue.push(job).await {
            Ok(_) => self.note_sent(job.job_id).await,
            Err(error) => {
                tracing::warn!(run_id = %job.run_id, error = %crate::error::chain(&error), "push failed");
            }
        }
    }

    /// The row may stay for a moment: pushing its job again would change nothing.
    async fn note_sent(&self, job: JobId) {
        if !self.sent.add(job) {
            self.delete_rows(&[job]).await;
        }
    }

    async fn delete_rows(&self, jobs: &[JobId]) {
        if let Err(error) = self.outbox.sent(jobs).await {
            tracing::warn!(jobs = jobs.len(), error = %crate::error::chain(&error), "outbox could not be marked");
        }
    }

    /// Pushes what requests could not, and deletes the rows of what was pushed, until `stop` fires. Requests that are in
    /// work by then delete their rows themselves.
    pub async fn relay(self, stop: CancellationToken) {
        *self.sent.locked() = Some(Vec::new());
        tokio::join!(self.push_due(&stop), self.delete_sent(&stop));
    }

    async fn delete_sent(&self, stop: &CancellationToken) {
        while stop
            .run_until_cancelled(self.sent.more.notified())
            .await
            .is_some()
        {
            tokio::time::sleep(SENT_LINGER).await;
            let jobs = self.sent.locked().as_mut().map(std::mem::take);
            self.delete_rows(&jobs.unwrap_or_default()).await;
        }
        let rest = self.sent.locked().take();
        let rest = rest.unwrap_or_default();
        if tokio::time::timeout(SENT_LAST_LIMIT, self.delete_rows(&rest))
            .await
            .is_err()
        {
            tracing::warn!(jobs = rest.len(), "outbox is slow, left to the relay");
        }
    }

    async fn push_due(&self, stop: &CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(RELAY_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
            let Some(queue) = self.usable() else { continue };
            match self.outbox.due(RELAY_AGE, RELAY_BATCH).await {
                Ok(jobs) => self.push_all(queue, &jobs).await,
                Err(error) => {
                    tracing::warn!(error = %crate::error::chain(&error), "outbox could not be read");
                }
            }
        }
    }

    async fn push_all(&self, queue: &Queue, jobs: &[Job]) {
        for job in jobs {
            match queue.push(job).await {
                Ok(_) => self.note_sent(job.job_id).await,
                Err(error) => {
                    tracing::warn!(error = %crate::error::chain(&error), "relay stopped for now");
                    return;
                }
            }
        }
    }
}

/// Control signal first: the sooner a tool is stopped the better. Whether the events are on their channels.
async fn announce(queue: &Queue, events: &[Event], job: Option<JobId>, signal: Option<RunId>) -> bool {
    let mut faults = vec![];
    if let Some(run) = signal {
        faults.extend(queue.signal(run).await.err());
    }
    let published = queue.publish(events).await;
    let is_published = published.is_ok();
    faults.extend(published.err());
    if let Some(job) = job {
        faults.extend(queue.remove(&job).await.err());
    }
    for fault in faults {
        tracing::warn!(error = %crate::error::chain(&fault), "could not be announced");
    }
    is_published
}

/// Events that went to their channels, or did not.
pub fn count_published(events: usize, ok: bool) {
    let result = if ok { "ok" } else { "error" };
    metrics::counter!("runtime_publish_total", "result" => result).increment(events as u64);
}
