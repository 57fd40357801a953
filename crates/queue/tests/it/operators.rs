//! What operators do: look at dead letters, put them back, pause the queue, read what the server says.

use crate::support::{Bench, job, numbers, urgent};
use domain::WorkerId;
use queue::{BuryReason, RedisOptions};
use std::time::Duration;

async fn bury(bench: &Bench, jobs: &[domain::Job]) {
    let consumer = bench.consumer("w1");
    bench.queue.push_all(jobs).await.unwrap();
    for mut delivery in consumer.claim(jobs.len()).await.unwrap() {
        delivery.job = delivery.job.next_attempt();
        delivery.bury(BuryReason::MaxAttempts, "tired").await.unwrap();
    }
}

#[tokio::test]
async fn dead_letters_are_listed_put_back_and_dropped() {
    let bench = Bench::start().await;
    bury(&bench, &[job(1), job(2), urgent(3)]).await;
    let letters = bench.queue.dead_letters(0, 10).await.unwrap();
    assert_eq!(letters.len(), 3);
    assert_eq!(letters[0].job.as_ref().unwrap().job_id, job(2).job_id);
    assert_eq!(letters[0].reason.as_deref(), Some("max_attempts"));
    let first = bench.queue.dead_letter(&job(1).job_id).await.unwrap().unwrap();
    assert!(bench.queue.requeue_dead_letter(&first).await.unwrap());
    assert!(!bench.queue.requeue_dead_letter(&first).await.unwrap());
    assert!(bench.queue.drop_dead_letter(&letters[0]).await.unwrap());
    assert!(!bench.queue.drop_dead_letter(&letters[0]).await.unwrap());
    assert_eq!(bench.queue.requeue_all_dead_letters().await.unwrap(), 1);
    assert_eq!(
        bench.snapshot(),
        "high_priority: 3\npending: 1\njobs:meta: 2\njobs:body: 2\n"
    );
    let claimed = bench.consumer("w1").claim(5).await.unwrap();
    assert_eq!(numbers(&claimed), [3, 1]);
    assert!(
        claimed
            .iter()
            .all(|delivery| delivery.job.attempt == 1 && delivery.deliveries == 1)
    );
}

#[tokio::test]
async fn an_undecodable_dead_letter_can_only_be_dropped() {
    let bench = Bench::start().await;
    bench.redis.cli(&["LPUSH", "jobs:pending", "junk"]);
    assert!(bench.consumer("w1").claim(1).await.unwrap().is_empty());
    let letters = bench.queue.dead_letters(0, 10).await.unwrap();
    assert_eq!(letters[0].payload.as_deref(), Some("junk"));
    assert_eq!(bench.queue.requeue_all_dead_letters().await.unwrap(), 0);
    assert!(bench.queue.drop_dead_letter(&letters[0]).await.unwrap());
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn a_dead_letter_pushed_back_by_hand_is_claimed_as_a_plain_job() {
    let bench = Bench::start().await;
    bury(&bench, &[job(1)]).await;
    bench.redis.cli(&["RPOPLPUSH", "jobs:failed", "jobs:pending"]);
    let delivery = bench.claim_one(&bench.consumer("w1")).await;
    assert_eq!(delivery.job, job(1).next_attempt());
    delivery.ack().await.unwrap();
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn a_paused_queue_takes_jobs_and_gives_none() {
    let bench = Bench::start().await;
    let mut consumer = bench.consumer("w1");
    bench.queue.set_paused(true).await.unwrap();
    assert!(bench.queue.is_paused().await.unwrap());
    bench.queue.push(&job(1)).await.unwrap();
    assert!(consumer.claim(1).await.unwrap().is_empty());
    assert_eq!(bench.llen("jobs:pending"), 1);
    bench.queue.set_paused(false).await.unwrap();
    tokio::time::timeout(Duration::from_millis(900), consumer.wait())
        .await
        .unwrap();
    assert_eq!(consumer.claim(1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn workers_leave_their_times() {
    let bench = Bench::start().await;
    let now = "2026-11-20T17:00:00Z".parse().unwrap();
    let worker = WorkerId::from("w1");
    bench.queue.note_start(now).await.unwrap();
    bench.queue.beat(&worker, now).await.unwrap();
    let (beat, start) = bench.queue.worker_times().await.unwrap();
    assert_eq!(beat.as_deref(), Some("2026-11-20T17:00:00.000000Z"));
    assert_eq!(start, beat);
    let ttl: i64 = bench.redis.cli(&["TTL", "worker:heartbeat"]).parse().unwrap();
    assert!((1..=30).contains(&ttl));
    assert_eq!(bench.redis.cli(&["ZRANGE", "jobs:workers", "0", "-1"]), "w1");
    for number in 0..120 {
        bench.queue.debug_line(&format!("line {number}")).await.unwrap();
    }
    assert_eq!(bench.llen("worker:debug"), 100);
    assert_eq!(bench.list("worker:debug")[0], "line 119");
    bench.queue.note_stop(&worker).await.unwrap();
    assert_eq!(bench.redis.cli(&["ZCARD", "jobs:workers"]), "0");
}

#[tokio::test]
async fn the_server_says_whether_it_is_fit() {
    let bench = Bench::start().await;
    let report = bench.queue.server_report().await.unwrap();
    assert_eq!(report.maxmemory_policy.as_deref(), Some("noeviction"));
    assert_eq!(report.append_only_file, Some(true));
    assert!(!report.cluster);
    assert!(report.faults().is_empty() && report.warnings().is_empty());
    bench
        .redis
        .cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    assert_eq!(bench.queue.server_report().await.unwrap().warnings().len(), 1);
}

#[tokio::test]
async fn two_prefixes_are_two_queues() {
    let bench = Bench::start().await;
    let options = RedisOptions {
        queue_prefix: Some("{other}".to_owned()),
        ..bench.options()
    };
    let other = queue::Queue::connect(&options).await.unwrap();
    testkit::eventually(Duration::from_secs(10), async || other.ping().await.is_ok()).await;
    other.push(&job(1)).await.unwrap();
    assert_eq!(bench.llen("jobs:pending"), 0);
    assert_eq!(bench.llen("{other}:pending"), 1);
}
