//! The queue as producers and operators see it.

use crate::connection::{Patience, measured};
use crate::consumer::{Consumer, ConsumerOptions};
use crate::delivery::text_of;
use crate::error::QueueError;
use crate::keys::{self, ListName, log_channel};
use crate::maintenance::Maintenance;
use crate::options::RedisOptions;
use crate::reply::arg;
use crate::script;
use crate::store::Store;
use domain::clock::wire_time;
use domain::{Event, Job, JobId, RunId, WorkerId};
use fred::interfaces::{ClientLike, KeysInterface, ListInterface, PubsubInterface, SortedSetsInterface};
use fred::types::{Expiration, Value};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// Life of `worker:heartbeat` without a further beat.
const HEARTBEAT_TTL: Duration = Duration::from_secs(30);
/// Life of `run:{run_id}:thinking`.
const THINKING_TTL: Duration = Duration::from_secs(30);
/// Workers that have not beaten for this long leave `jobs:workers`.
const WORKER_FORGOTTEN_MS: i64 = 60_000;
/// Most jobs of one push script.
pub(crate) const PUSH_BATCH: usize = 500;

/// Sizes of the five lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Depths {
    pub high_priority: u64,
    pub pending: u64,
    pub processing: u64,
    pub retry: u64,
    pub failed: u64,
}

impl Depths {
    pub fn of(&self, list: ListName) -> u64 {
        match list {
            ListName::HighPriority => self.high_priority,
            ListName::Pending => self.pending,
            ListName::Processing => self.processing,
            ListName::Retry => self.retry,
            ListName::Failed => self.failed,
        }
    }
}

/// Handle of the queue: one command connection, cheap to clone.
#[derive(Debug, Clone)]
pub struct Queue {
    pub(crate) store: Store,
    options: Arc<RedisOptions>,
}

impl Queue {
    /// Returns at once, also while Redis is away; connecting and reconnecting go on in the background for ever.
    /// Fails only on settings that cannot be used.
    #[expect(
        clippy::unused_async,
        reason = "marks that a runtime is needed: the connection's tasks start here"
    )]
    pub async fn connect(options: &RedisOptions) -> Result<Self, QueueError> {
        Ok(Self {
            store: Store::open(options, "queue")?,
            options: Arc::new(options.clone()),
        })
    }

    /// Asks the server; fails within a second when it is away.
    pub async fn ping(&self) -> Result<(), QueueError> {
        let client = self.store.connection().with(Patience::Brief);
        measured("ping", client.ping::<Value>(None)).await.map(drop)
    }

    /// True while the command connection is up.
    pub fn is_connected(&self) -> bool {
        self.store.connection().is_connected()
    }

    /// Puts a job at the end of its line. False when Redis knows the job already, wherever it is: pushing again
    /// is harmless. Fails within a second when Redis is away.
    pub async fn push(&self, job: &Job) -> Result<bool, QueueError> {
        let pushed = self.push_all(std::slice::from_ref(job)).await?;
        Ok(pushed == 1)
    }

    /// Pushes many; the number of those that were new.
    pub async fn push_all(&self, jobs: &[Job]) -> Result<usize, QueueError> {
        let mut fresh = 0;
        for batch in jobs.chunks(PUSH_BATCH) {
            let mut args = Vec::with_capacity(batch.len() * 3);
            for job in batch {
                let home = ListName::home(job.priority);
                args.extend([arg(job.job_id), arg(home.code()), arg(text_of(job)?)]);
            }
            let answer = self
                .store
                .run_within(&script::PUSH, args, Patience::Brief)
                .await?;
            for pushed in answer.rows()? {
                fresh += usize::from(pushed.number()? == 1);
            }
        }
        Ok(fresh)
    }

    /// Puts a job that waits for its retry time into the retry list, when Redis does not know it (after a loss of
    /// data). `job` is the next attempt, `retry_at` its earliest time.
    pub async fn push_retry(
        &self,
        job: &Job,
        retry_at: Timestamp,
        last_error: &str,
    ) -> Result<bool, QueueError> {
        let waiting = [(job.clone(), retry_at)];
        Ok(self.push_retries(&waiting, last_error).await? == 1)
    }

    /// Takes a job out of whatever list holds it, with its lease. False when Redis did not know it.
    pub async fn remove(&self, job_id: &JobId) -> Result<bool, QueueError> {
        let answer = self
            .store
            .run_within(&script::REMOVE, vec![arg(job_id)], Patience::Brief)
            .await?;
        Ok(answer.number()? == 1)
    }

    /// Exact sizes of all lists.
    pub async fn depths(&self) -> Result<Depths, QueueError> {
        let pipeline = self.store.connection().with(Patience::Normal).pipeline();
        let queued = async {
            for list in ListName::ALL {
                let () = pipeline.llen(self.store.keys().list(list)).await?;
            }
            pipeline.all::<Vec<u64>>().await
        };
        let sizes = measured("depths", queued).await?;
        let [high_priority, pending, processing, retry, failed] = sizes[..] else {
            return Err(QueueError::Unexpected { operation: "depths" });
        };
        Ok(Depths {
            high_priority,
            pending,
            processing,
            retry,
            failed,
        })
    }

    /// Up to `limit` elements from `offset`, as they stand in Redis, newest first.
    pub async fn peek(&self, list: ListName, offset: usize, limit: usize) -> Result<Vec<String>, QueueError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let client = self.store.connection().with(Patience::Normal);
        let from = offset as i64;
        let to = from + limit as i64 - 1;
        let texts: Vec<Vec<u8>> =
            measured("peek", client.lrange(self.store.keys().list(list), from, to)).await?;
        Ok(texts
            .into_iter()
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .collect())
    }

    /// Publishes committed events on their runs' channels, in order, in one round trip.
    pub async fn publish(&self, events: &[Event]) -> Result<(), QueueError> {
        if events.is_empty() {
            return Ok(());
        }
        let pipeline = self.store.connection().with(Patience::Brief).pipeline();
        let queued = async {
            for event in events {
                let payload = domain::wire::default_text(event);
                let () = pipeline.publish(log_channel(event.run_id), payload).await?;
            }
            pipeline.all::<Value>().await
        };
        measured("publish", queued).await.map(drop)
    }

    /// Publishes a transient line on a run's channel, as it stands.
    pub async fn publish_transient(&self, run_id: RunId, payload: String) -> Result<(), QueueError> {
        let client = self.store.connection().with(Patience::Brief);
        measured(
            "publish",
            client.publish::<Value, _, _>(log_channel(run_id), payload),
        )
        .await
        .map(drop)
    }

    /// Shows a line of thought on the run's channel and keeps it for viewers who come within 30 s.
    pub async fn think(&self, run_id: RunId, content: &str) -> Result<(), QueueError> {
        let pipeline = self.store.connection().with(Patience::Brief).pipeline();
        let payload = serde_json::json!({"type": "thinking", "run_id": run_id, "content": content});
        let queued = async {
            let ttl = Some(Expiration::EX(THINKING_TTL.as_secs() as i64));
            let key = keys::thinking(run_id);
            let () = pipeline.set(key, content, ttl, None, false).await?;
            let () = pipeline.publish(log_channel(run_id), payload.to_string()).await?;
            pipeline.all::<Value>().await
        };
        measured("think", queued).await.map(drop)
    }

    /// The line of thought of the last 30 s.
    pub async fn thought(&self, run_id: RunId) -> Result<Option<String>, QueueError> {
        let client = self.store.connection().with(Patience::Brief);
        measured("thought", client.get(keys::thinking(run_id))).await
    }

    /// Tells all workers to look at this run in Postgres now.
    pub async fn signal(&self, run_id: RunId) -> Result<(), QueueError> {
        let client = self.store.connection().with(Patience::Brief);
        let published = client.publish::<Value, _, _>(keys::CONTROL_CHANNEL, run_id.to_string());
        measured("signal", published).await.map(drop)
    }

    /// Stops (true) or lets go on (false) all claiming; pushes and running jobs are not touched.
    pub async fn set_paused(&self, paused: bool) -> Result<(), QueueError> {
        let args = vec![arg(u8::from(paused))];
        self.store.run(&script::PAUSE, args).await.map(drop)
    }

    pub async fn is_paused(&self) -> Result<bool, QueueError> {
        let client = self.store.connection().with(Patience::Normal);
        let known: i64 = measured("paused", client.exists(self.store.keys().named("paused"))).await?;
        Ok(known > 0)
    }

    /// A worker's way to jobs, with a blocking connection of its own.
    pub fn consumer(&self, worker: WorkerId, options: ConsumerOptions) -> Result<Consumer, QueueError> {
        Consumer::new(self.store.clone(), &self.options, worker, options)
    }

    pub fn maintenance(&self) -> Maintenance {
        Maintenance::new(self.store.clone())
    }

    /// Notes that a worker is alive; call it every 3 s.
    pub async fn beat(&self, worker: &WorkerId, now: Timestamp) -> Result<(), QueueError> {
        let workers = self.store.keys().named("workers");
        let pipeline = self.store.connection().with(Patience::Normal).pipeline();
        let now_ms = now.as_millisecond();
        let queued = async {
            let ttl = Some(Expiration::EX(HEARTBEAT_TTL.as_secs() as i64));
            let () = pipeline
                .set(keys::WORKER_HEARTBEAT, wire_time(now), ttl, None, false)
                .await?;
            let member = (now_ms as f64, worker.as_str());
            let () = pipeline.zadd(&workers, None, None, false, false, member).await?;
            let oldest = (now_ms - WORKER_FORGOTTEN_MS) as f64;
            let () = pipeline
                .zremrangebyscore(&workers, f64::NEG_INFINITY, oldest)
                .await?;
            pipeline.all::<Value>().await
        };
        measured("beat", queued).await.map(drop)
    }

    /// Notes that a worker has started.
    pub async fn note_start(&self, now: Timestamp) -> Result<(), QueueError> {
        let client = self.store.connection().with(Patience::Normal);
        let set = client.set::<Value, _, _>(keys::WORKER_LAST_START, wire_time(now), None, None, false);
        measured("note_start", set).await.map(drop)
    }

    /// A worker ends in good order.
    pub async fn note_stop(&self, worker: &WorkerId) -> Result<(), QueueError> {
        let client = self.store.connection().with(Patience::Normal);
        let removed = client.zrem::<Value, _, _>(self.store.keys().named("workers"), worker.as_str());
        measured("note_stop", removed).await.map(drop)
    }

    /// Adds a line to `worker:debug`, which keeps the last 100.
    pub async fn debug_line(&self, line: &str) -> Result<(), QueueError> {
        let pipeline = self.store.connection().with(Patience::Normal).pipeline();
        let queued = async {
            let () = pipeline.lpush(keys::WORKER_DEBUG, line).await?;
            let () = pipeline
                .ltrim(keys::WORKER_DEBUG, 0, keys::WORKER_DEBUG_LINES - 1)
                .await?;
            pipeline.all::<Value>().await
        };
        measured("debug_line", queued).await.map(drop)
    }

    /// The newest lines of `worker:debug`, at most `limit`.
    pub async fn debug_lines(&self, limit: u32) -> Result<Vec<String>, QueueError> {
        let client = self.store.connection().with(Patience::Brief);
        let last = i64::from(limit) - 1;
        measured("debug_lines", client.lrange(keys::WORKER_DEBUG, 0, last)).await
    }

    /// Workers that are not forgotten, with their last beat.
    pub async fn workers(&self) -> Result<Vec<(WorkerId, Timestamp)>, QueueError> {
        let client = self.store.connection().with(Patience::Normal);
        let key = self.store.keys().named("workers");
        let range = client.zrange::<Vec<(String, f64)>, _, _, _>(key, 0, -1, None, false, None, true);
        let beats = measured("workers", range).await?.into_iter();
        let beat = |(id, at): (String, f64)| {
            let at = Timestamp::from_millisecond(at as i64).unwrap_or(Timestamp::UNIX_EPOCH);
            (WorkerId(id), at)
        };
        Ok(beats.map(beat).collect())
    }

    /// Last beat of any worker and last start, as they stand in Redis.
    pub async fn worker_times(&self) -> Result<(Option<String>, Option<String>), QueueError> {
        let client = self.store.connection().with(Patience::Brief);
        let beat = measured("worker_times", client.get(keys::WORKER_HEARTBEAT)).await?;
        let start = measured("worker_times", client.get(keys::WORKER_LAST_START)).await?;
        Ok((beat, start))
    }
}
