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

#[tokio::test]
async fn a_glance_counts_elements_without_lease_and_leases_without_element() {
    let bench = Bench::start().await;
    bench.queue.push_all(&[job(1), job(2), urgent(3)]).await.unwrap();
    let claimed = bench.consumer("w1").claim(2).await.unwrap();
    bench.redis.cli(&["LPUSH", "jobs:pending", r#"{"run_id":"x"}"#]);
    let glance = bench.queue.glance().await.unwrap();
    assert_eq!(
        (glance.orphans, glance.depths.processing, glance.depths.pending),
        (0, 2, 2)
    );
    assert!(glance.oldest_pending_age_ms.is_some() && !glance.paused);
    bench
        .redis
        .cli(&["ZREM", "jobs:lease", &claimed[0].job_id().to_string()]);
    assert_eq!(bench.queue.glance().await.unwrap().orphans, 1);
    bench
        .redis
        .cli(&["ZADD", "jobs:lease", "9999999999999", &job(9).job_id.to_string()]);
    assert_eq!(bench.queue.glance().await.unwrap().orphans, 2);
    bench.redis.cli(&["DEL", "jobs:processing"]);
    assert_eq!(bench.queue.glance().await.unwrap().orphans, 2);
    bench.queue.set_paused(true).await.unwrap();
    assert!(bench.queue.glance().await.unwrap().paused);
}

/// The entry of a job, as a reconciler reads it.
async fn entry(bench: &Bench, job: &domain::Job) -> queue::Entry {
    let page = bench.queue.entries(None, 100).await.unwrap();
    page.entries
        .into_iter()
        .find(|entry| entry.job_id == job.job_id)
        .unwrap()
}

#[tokio::test]
async fn a_job_that_moved_since_it_was_read_is_neither_discarded_nor_reseated() {
    let bench = Bench::start().await;
    bench.queue.push_all(&[job(1), job(2)]).await.unwrap();
    let stale = entry(&bench, &job(1)).await;
    let to_retry = queue::Waiting {
        job: job(1),
        retry_at: Some("2126-01-01T00:00:00Z".parse().unwrap()),
    };
    let delivery = bench.claim_one(&bench.consumer("w1")).await;
    let before = bench.snapshot();
    assert_eq!(
        bench.queue.discard(std::slice::from_ref(&stale)).await.unwrap(),
        0
    );
    assert_eq!(
        bench
            .queue
            .reseat(&[(stale.clone(), to_retry.clone())])
            .await
            .unwrap(),
        0
    );
    assert_eq!(bench.snapshot(), before);
    // It is where it was, but was claimed in between.
    delivery.hand_back().await.unwrap();
    assert_eq!(
        bench.queue.discard(std::slice::from_ref(&stale)).await.unwrap(),
        0
    );
    assert_eq!(bench.queue.reseat(&[(stale, to_retry.clone())]).await.unwrap(), 0);

    let fresh = entry(&bench, &job(1)).await;
    assert_eq!(bench.queue.reseat(&[(fresh.clone(), to_retry)]).await.unwrap(), 1);
    assert_eq!(
        bench.snapshot(),
        "pending: 2\nretry: 1\njobs:retry:due: 1\njobs:meta: 2\njobs:body: 2\n"
    );
    let back = queue::Waiting {
        job: urgent(1),
        retry_at: None,
    };
    let fresh = entry(&bench, &job(1)).await;
    assert_eq!(bench.queue.reseat(&[(fresh, back)]).await.unwrap(), 1);
    assert_eq!(
        bench.snapshot(),
        "high_priority: 1\npending: 2\njobs:meta: 2\njobs:body: 2\n"
    );
    let both = [entry(&bench, &job(1)).await, entry(&bench, &job(2)).await];
    assert_eq!(bench.queue.discard(&both).await.unwrap(), 2);
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn many_retries_are_put_back_in_one_call_and_known_ones_are_left() {
    let bench = Bench::start().await;
    let at = "2126-01-01T00:00:00Z".parse().unwrap();
    let all: Vec<_> = (0..1200).map(|number| (job(number), at)).collect();
    assert_eq!(bench.queue.push_retries(&all[..700], "lost").await.unwrap(), 700);
    assert_eq!(bench.queue.push_retries(&all, "lost").await.unwrap(), 500);
    assert_eq!(bench.llen("jobs:retry"), 1200);
    assert!(bench.queue.census().await.unwrap().faults().is_empty());
}

#[tokio::test]
async fn one_turn_in_a_period_is_given_to_one_caller() {
    let bench = Bench::start().await;
    let period = Duration::from_mins(1);
    assert!(bench.queue.is_my_turn("work", period).await.unwrap());
    assert!(!bench.queue.is_my_turn("work", period).await.unwrap());
    assert!(bench.queue.is_my_turn("other", period).await.unwrap());
}

#[tokio::test]
async fn an_undecodable_letter_can_be_put_back_as_a_job() {
    let bench = Bench::start().await;
    bench.redis.cli(&["LPUSH", "jobs:pending", "junk"]);
    assert!(bench.consumer("w1").claim(1).await.unwrap().is_empty());
    let letter = bench.queue.dead_letters(0, 1).await.unwrap().remove(0);
    let job = domain::Job {
        job_id: letter.job_id.unwrap(),
        ..urgent(1)
    };
    assert!(bench.queue.requeue_dead_letter_as(&letter, &job).await.unwrap());
    assert!(!bench.queue.requeue_dead_letter_as(&letter, &job).await.unwrap());
    assert_eq!(bench.claim_one(&bench.consumer("w1")).await.job, job);
    assert_eq!(bench.llen("jobs:failed"), 0);
}
