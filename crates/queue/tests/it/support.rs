//! A queue on a private server, jobs to put in it, and the whole queue as text.

use domain::{Ids, Job, JobId, RunId, SystemIds, WorkerId};
use queue::{Consumer, ConsumerOptions, Delivery, ListName, Queue, RedisOptions};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;
use testkit::{Redis, eventually};
use uuid::Uuid;

pub(crate) const LEASE: Duration = Duration::from_secs(9);
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A queue and its server.
pub(crate) struct Bench {
    pub(crate) redis: Redis,
    pub(crate) queue: Queue,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let redis = Redis::start().await;
        let queue = connected(&redis.url()).await;
        Self { redis, queue }
    }

    pub(crate) fn options(&self) -> RedisOptions {
        RedisOptions::for_url(self.redis.url())
    }

    pub(crate) fn consumer(&self, name: &str) -> Consumer {
        self.consumer_with(name, LEASE)
    }

    pub(crate) fn consumer_with(&self, name: &str, lease: Duration) -> Consumer {
        consumer(&self.queue, name, lease)
    }

    /// One claimed job.
    pub(crate) async fn claim_one(&self, consumer: &Consumer) -> Delivery {
        let mut jobs = consumer.claim(1).await.unwrap();
        assert_eq!(jobs.len(), 1, "nothing to claim:\n{}", self.snapshot());
        jobs.remove(0)
    }

    pub(crate) fn llen(&self, list: &str) -> usize {
        self.redis.cli(&["LLEN", list]).parse().unwrap()
    }

    pub(crate) fn list(&self, list: &str) -> Vec<String> {
        let text = self.redis.cli(&["LRANGE", list, "0", "-1"]);
        text.lines().map(str::to_owned).collect()
    }

    /// Jobs by their number, per list from the end that is served first, with what hangs on them.
    pub(crate) fn snapshot(&self) -> String {
        let mut out = String::new();
        for list in ListName::ALL {
            let key = format!("jobs:{}", list.suffix());
            let mut names: Vec<String> = self.list(&key).iter().map(|text| short(text)).collect();
            names.reverse();
            if !names.is_empty() {
                writeln!(out, "{}: {}", list.suffix(), names.join(" ")).unwrap();
            }
        }
        for key in ["jobs:lease", "jobs:retry:due"] {
            let mut ids: Vec<String> = self
                .redis
                .cli(&["ZRANGE", key, "0", "-1"])
                .lines()
                .map(number)
                .collect();
            ids.sort();
            if !ids.is_empty() {
                writeln!(out, "{key}: {}", ids.join(" ")).unwrap();
            }
        }
        for key in ["jobs:meta", "jobs:body"] {
            let len = self.redis.cli(&["HLEN", key]);
            if len != "0" {
                writeln!(out, "{key}: {len}").unwrap();
            }
        }
        out
    }
}

fn number(id: &str) -> String {
    Uuid::parse_str(id).map_or_else(|_| "?".to_owned(), |id| (id.as_u128() & 0xffff).to_string())
}

fn short(text: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    match value["job_id"].as_str() {
        Some(id) => number(id),
        None => text.to_owned(),
    }
}

pub(crate) async fn connected(url: &str) -> Queue {
    let queue = Queue::connect(&RedisOptions::for_url(url)).await.unwrap();
    eventually(LONG, async || queue.ping().await.is_ok()).await;
    queue
}

pub(crate) fn consumer(queue: &Queue, name: &str, lease: Duration) -> Consumer {
    let options = ConsumerOptions {
        lease,
        longest_wait: Duration::from_secs(5),
        ids: Arc::new(SystemIds),
    };
    queue.consumer(WorkerId::from(name), options).unwrap()
}

pub(crate) fn job(number: u128) -> Job {
    Job {
        job_id: JobId(Uuid::from_u128(
            0x0190_0000_0000_7000_8000_0000_0000_0000 + number,
        )),
        run_id: RunId(Uuid::from_u128(
            0x0190_0000_0000_7000_9000_0000_0000_0000 + number,
        )),
        attempt: 1,
        retry_count: 0,
        priority: 0,
        enqueued_at: "2026-11-20T17:00:00Z".parse().unwrap(),
        traceparent: "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01".to_owned(),
    }
}

pub(crate) fn urgent(number: u128) -> Job {
    Job {
        priority: 5,
        ..job(number)
    }
}

pub(crate) fn text(job: &Job) -> String {
    serde_json::to_string(job).unwrap()
}

pub(crate) fn fresh_run() -> RunId {
    RunId(SystemIds.uuid())
}

pub(crate) fn numbers(deliveries: &[Delivery]) -> Vec<u128> {
    deliveries
        .iter()
        .map(|delivery| delivery.job.job_id.0.as_u128() & 0xffff)
        .collect()
}
