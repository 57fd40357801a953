//! Waiting for work and claiming it.
//!
//! Invariants:
//! - Blocking happens on the wake-up list only, on a client of its own; it never transfers a job. A lost token
//!   costs at most one poll interval.
//! - A claim moves jobs and leases them in one script, so an element in `jobs:processing` always has a lease.
//! - A claim whose answer was lost (cut connection, dropped future) is remembered and asked for again by the
//!   next one, without counting a second delivery.

use crate::connection::Connection;
use crate::delivery::{BuryReason, Delivery, text_of};
use crate::error::QueueError;
use crate::foreign::{self, Completed, Found};
use crate::keys::ListName;
use crate::options::RedisOptions;
use crate::reply::{Reply, arg};
use crate::script;
use crate::store::Store;
use domain::breakage::{self, Breakage};
use domain::{Ids, Job, JobId, WorkerId};
use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand, Value};
use jiff::Timestamp;
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Longest time an idle consumer waits before it looks itself: jobs pushed by hand bring no token.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// A blocking call that is this much over its time is given up.
const BLOCKING_MARGIN: Duration = Duration::from_secs(1);
/// Most jobs of one claim.
pub const MAX_CLAIM: usize = 256;

/// How a consumer claims.
#[derive(Debug, Clone)]
pub struct ConsumerOptions {
    /// Length of a lease (`WORKER_LEASE_SECONDS`).
    pub lease: Duration,
    /// Longest single blocking call (`WORKER_JOB_TIMEOUT`); at most [`POLL_INTERVAL`] is used.
    pub longest_wait: Duration,
    /// Makes ids for jobs pushed by hand.
    pub ids: Arc<dyn Ids>,
}

/// One worker's way to jobs.
#[derive(Debug)]
pub struct Consumer {
    store: Store,
    waiter: Arc<Connection>,
    worker: WorkerId,
    options: ConsumerOptions,
    claims: AtomicU64,
    seen: Mutex<Seen>,
    blocked: Option<JoinHandle<Blocked>>,
}

/// What earlier claims taught.
#[derive(Debug, Default)]
struct Seen {
    /// Stamps of claims that may have been carried out without us knowing.
    unanswered: Vec<(String, Instant)>,
    next_retry: Option<Instant>,
}

impl Consumer {
    pub(crate) fn new(
        store: Store,
        redis: &RedisOptions,
        worker: WorkerId,
        options: ConsumerOptions,
    ) -> Result<Self, QueueError> {
        Ok(Self {
            store,
            waiter: Arc::new(Connection::open(redis, "waiter")?),
            worker,
            options,
            claims: AtomicU64::new(0),
            seen: Mutex::default(),
            blocked: None,
        })
    }

    /// Returns when a claim may find something: a wake-up token came, a retry is due, or [`POLL_INTERVAL`] has
    /// passed. May be dropped at any time; never fails, since polling goes on whatever Redis does.
    pub async fn wait(&mut self) {
        let started = Instant::now();
        let block_for = POLL_INTERVAL.min(self.options.longest_wait);
        let longest = started + block_for;
        let until = self.seen().next_retry.map_or(longest, |due| due.min(longest));
        while Instant::now() < until {
            let token = self.blocked.get_or_insert_with(|| {
                tokio::spawn(take_token(
                    self.store.clone(),
                    Arc::clone(&self.waiter),
                    block_for,
                ))
            });
            tokio::select! {
                answered = token => {
                    self.blocked = None;
                    match answered {
                        Ok(Blocked::Token) => return,
                        Ok(Blocked::TimedOut) => {}
                        // Redis is away: keep the pace instead of spinning.
                        Ok(Blocked::Failed) | Err(_) => tokio::time::sleep_until(until).await,
                    }
                }
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Takes up to `most` jobs (at most [`MAX_CLAIM`]): high priority, then due retries, then pending, each first
    /// in first out. Jobs pushed by hand are made whole; undecodable ones go to the dead letters at once and are
    /// not returned. Nothing when the queue is paused.
    pub async fn claim(&self, most: usize) -> Result<Vec<Delivery>, QueueError> {
        let most = most.min(MAX_CLAIM);
        if most == 0 {
            return Ok(Vec::new());
        }
        if breakage::is(Breakage::NonAtomicClaim) {
            crate::broken::pop_before_claim(&self.store).await;
        }
        let (stamp, lost) = self.begin_claim();
        let answer = self.ask(most, &stamp, &lost).await?;
        let deliveries = self.read_answer(answer).await?;
        self.end_claim(&stamp);
        Ok(deliveries)
    }

    /// The quick script, and the thorough one where that will not do.
    async fn ask(&self, most: usize, stamp: &str, lost: &[String]) -> Result<Reply, QueueError> {
        let mut args = vec![arg(most), arg(self.options.lease.as_millis()), arg(stamp)];
        if lost.is_empty() {
            let answer = self.store.run(&script::CLAIM, args.clone()).await?;
            if !answer.is_nil() {
                return Ok(answer);
            }
        }
        args.push(arg(lost.join(" ")));
        args.extend((0..most).map(|_| arg(JobId(self.options.ids.uuid()))));
        self.store.run(&script::CLAIM_ANY, args).await
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stamp of a new claim, noted as unanswered until it is, and those without an answer before it.
    fn begin_claim(&self) -> (String, Vec<String>) {
        let number = self.claims.fetch_add(1, Ordering::Relaxed);
        let stamp = format!(
            "{}#{number}",
            self.worker.as_str().replace(char::is_whitespace, "_")
        );
        let now = Instant::now();
        let mut seen = self.seen();
        // Later the lease has run out and the sweep has put the jobs back.
        seen.unanswered
            .retain(|(_, at)| now.duration_since(*at) < self.options.lease);
        let lost = seen.unanswered.iter().map(|(stamp, _)| stamp.clone()).collect();
        seen.unanswered.push((stamp.clone(), now));
        (stamp, lost)
    }

    fn end_claim(&self, stamp: &str) {
        self.seen().unanswered.retain(|(other, _)| other != stamp);
    }

    async fn read_answer(&self, answer: Reply) -> Result<Vec<Delivery>, QueueError> {
        let [now_us, next_retry_ms, _paused, rows] = answer.tuple()?;
        let now = Timestamp::from_microsecond(now_us.number()?)
            .map_err(|_| QueueError::Unexpected { operation: "claim" })?;
        let next_retry_ms = u64::try_from(next_retry_ms.number()?).ok();
        self.seen().next_retry = next_retry_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
        let mut deliveries = Vec::new();
        for row in Row::read_all(rows)? {
            match row.whole_job() {
                Some(job) => deliveries.push(row.deliver(job, false, self.store.clone())),
                None => deliveries.extend(self.adopt(row, now).await?),
            }
        }
        Ok(deliveries)
    }

    /// A hand-made element becomes a proper job, or a dead letter.
    async fn adopt(&self, row: Row, now: Timestamp) -> Result<Option<Delivery>, QueueError> {
        let found = Found {
            in_high_priority: row.home == ListName::HighPriority,
            at: now,
            fresh: row.job_id,
        };
        match foreign::complete(&row.raw, found, self.options.ids.as_ref()) {
            Some(completed) => self.make_whole(row, completed).await,
            None => self.bury_undecodable(row).await.map(|()| None),
        }
    }

    async fn make_whole(&self, row: Row, completed: Completed) -> Result<Option<Delivery>, QueueError> {
        let Completed { job, anonymous } = completed;
        let text = text_of(&job)?;
        let origin = if anonymous { "foreign" } else { "own" };
        let args = vec![
            arg(row.job_id),
            arg(row.epoch),
            arg(job.job_id),
            arg(row.home.code()),
            arg(&text),
            arg(origin),
        ];
        let status = self.store.run(&script::REWRITE, args).await?.text()?;
        if status != "ok" {
            tracing::info!(run_id = %job.run_id, job_id = %job.job_id, status, "element pushed by hand dropped");
            return Ok(None);
        }
        let row = Row {
            raw: text.into_bytes(),
            ..row
        };
        Ok(Some(row.deliver(job, anonymous, self.store.clone())))
    }

    async fn bury_undecodable(&self, row: Row) -> Result<(), QueueError> {
        let payload = foreign::payload(&row.raw);
        tracing::warn!(job_id = %row.job_id, "undecodable element goes to the dead letters");
        let text = json!({"job_id": row.job_id, "run_id": null, "payload": payload}).to_string();
        let reason = BuryReason::Undecodable.as_str();
        let after = format!(r#"","error":"not JSON with a valid run_id","reason":"{reason}""#);
        let args = vec![
            arg(row.job_id),
            arg(row.epoch),
            arg(ListName::Failed.code()),
            arg(0),
            arg(text),
            arg(r#","failed_at":""#),
            arg(after),
        ];
        let status = self.store.run(&script::RELEASE, args).await?.text()?;
        if status != "ok" {
            tracing::warn!(job_id = %row.job_id, status, "undecodable element was not buried");
        }
        Ok(())
    }
}

/// How a blocking call ended.
#[derive(Debug)]
enum Blocked {
    Token,
    TimedOut,
    Failed,
}

/// One blocking call. It outlives a dropped [`Consumer::wait`], and the next one takes it up again.
async fn take_token(store: Store, waiter: Arc<Connection>, block_for: Duration) -> Blocked {
    if !waiter.comes_up_within(block_for).await {
        return Blocked::Failed;
    }
    let command = CustomCommand::new_static("BRPOP", ClusterHash::FirstKey, true);
    let args: Vec<Value> = vec![arg(store.keys().named("wake")), arg(block_for.as_secs_f64())];
    let limit = block_for + BLOCKING_MARGIN;
    // The plain command, since fred's own `brpop` cannot tell "nothing came" from "the connection hangs".
    let answer: Result<Value, _> = Box::pin(waiter.blocking(limit).custom(command, args)).await;
    if answer.is_ok() {
        waiter.note_answer();
    }
    match answer {
        Ok(Value::Null) => Blocked::TimedOut,
        Ok(_) => Blocked::Token,
        Err(fault) => {
            tracing::debug!(%fault, "waiting for jobs by polling only");
            Blocked::Failed
        }
    }
}

/// A row of the claim script.
#[derive(Debug)]
struct Row {
    job_id: JobId,
    epoch: i64,
    deliveries: u32,
    home: ListName,
    /// Pushed by hand and not made whole yet.
    is_raw: bool,
    /// Pushed by hand without a job id, made whole.
    is_foreign: bool,
    raw: Vec<u8>,
}

impl Row {
    /// From id, meta and text per job, flat.
    fn read_all(rows: Reply) -> Result<Vec<Self>, QueueError> {
        let mut values = rows.rows()?.into_iter();
        let mut all = Vec::with_capacity(values.len() / 3);
        while let (Some(id), Some(meta), Some(raw)) = (values.next(), values.next(), values.next()) {
            all.push(Self::read(&id.text()?, &meta.text()?, raw.bytes()?)?);
        }
        Ok(all)
    }

    /// `meta` as `lua/prelude.lua` writes it: epoch, deliveries, list, home, origin, and what does not matter here.
    fn read(id: &str, meta: &str, raw: Vec<u8>) -> Result<Self, QueueError> {
        let unexpected = || QueueError::Unexpected { operation: "claim" };
        let mut fields = meta.split('|');
        let mut next = || fields.next().ok_or_else(unexpected);
        let (epoch, deliveries, _, home, origin) = (next()?, next()?, next()?, next()?, next()?);
        Ok(Self {
            job_id: id.parse().map_err(|_| unexpected())?,
            epoch: epoch.parse().map_err(|_| unexpected())?,
            deliveries: deliveries.parse().unwrap_or(0),
            home: ListName::from_code(home).ok_or_else(unexpected)?,
            is_raw: origin == "raw",
            is_foreign: origin == "foreign",
            raw,
        })
    }

    /// The job of an element that is whole already.
    fn whole_job(&self) -> Option<Job> {
        if self.is_raw {
            return None;
        }
        serde_json::from_slice(&self.raw)
            .ok()
            .filter(|job: &Job| job.job_id == self.job_id)
    }

    fn deliver(self, job: Job, anonymous: bool, store: Store) -> Delivery {
        Delivery {
            job,
            raw: String::from_utf8(self.raw)
                .unwrap_or_else(|fault| String::from_utf8_lossy(fault.as_bytes()).into_owned()),
            epoch: self.epoch,
            deliveries: self.deliveries,
            foreign: anonymous || self.is_foreign,
            store,
        }
    }
}
