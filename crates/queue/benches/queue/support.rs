//! A private server and what is put into it.

use domain::{Ids, Job, JobId, RunId, SystemIds, WorkerId};
use queue::{Consumer, ConsumerOptions, Queue, RedisOptions};
use std::sync::Arc;
use std::time::Duration;
use testkit::{Redis, eventually};

const LONG: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    pub(crate) redis: Redis,
    pub(crate) queue: Queue,
    pub(crate) fsync: &'static str,
}

impl Server {
    pub(crate) async fn start(fsync: &'static str) -> Self {
        let redis = Redis::start().await;
        redis.cli(&["CONFIG", "SET", "appendfsync", fsync]);
        let queue = connect(&redis).await;
        Self { redis, queue, fsync }
    }

    /// Empties the server, also of the append-only file that earlier rounds left.
    pub(crate) fn clear(&self) {
        self.redis.cli(&["FLUSHALL"]);
    }

    pub(crate) fn consumer(&self, name: &str) -> Consumer {
        consumer(&self.queue, name)
    }

    /// CPU seconds of the server's main thread so far.
    pub(crate) fn cpu_s(&self) -> f64 {
        let info = self.redis.cli(&["INFO", "cpu"]);
        ["used_cpu_user_main_thread:", "used_cpu_sys_main_thread:"]
            .iter()
            .filter_map(|name| info.lines().find_map(|line| line.strip_prefix(name)))
            .map(|value| value.trim().parse::<f64>().unwrap())
            .sum()
    }
}

pub(crate) async fn connect(redis: &Redis) -> Queue {
    let queue = Queue::connect(&RedisOptions::for_url(redis.url())).await.unwrap();
    eventually(LONG, async || queue.ping().await.is_ok()).await;
    queue
}

pub(crate) fn consumer(queue: &Queue, name: &str) -> Consumer {
    let options = ConsumerOptions {
        lease: Duration::from_secs(9),
        longest_wait: Duration::from_secs(5),
        ids: Arc::new(SystemIds),
    };
    queue.consumer(WorkerId::from(name), options).unwrap()
}

pub(crate) fn jobs(count: usize) -> Vec<Job> {
    let at = "2026-11-20T17:00:00Z".parse().unwrap();
    let one = |_| Job {
        job_id: JobId(SystemIds.uuid()),
        run_id: RunId(SystemIds.uuid()),
        attempt: 1,
        retry_count: 0,
        priority: 0,
        enqueued_at: at,
        traceparent: "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01".to_owned(),
    };
    (0..count).map(one).collect()
}
