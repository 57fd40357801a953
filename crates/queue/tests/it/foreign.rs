//! What people push by hand.

use crate::support::{Bench, LEASE, fresh_run, job, text};
use queue::Settled;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_run_id_pushed_by_hand_is_found_within_a_second_and_becomes_a_whole_job() {
    let bench = Bench::start().await;
    let mut consumer = bench.consumer("w1");
    consumer.wait().await;
    let run_id = fresh_run();
    bench
        .redis
        .cli(&["LPUSH", "jobs:pending", &format!(r#"{{"run_id":"{run_id}"}}"#)]);
    let started = Instant::now();
    let delivery = loop {
        consumer.wait().await;
        if let Some(delivery) = consumer.claim(4).await.unwrap().pop() {
            break delivery;
        }
    };
    assert!(
        started.elapsed() < Duration::from_millis(1100),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(delivery.job.run_id, run_id);
    assert!(delivery.foreign);
    assert_eq!(bench.list("jobs:processing"), [text(&delivery.job)]);
    assert_eq!(bench.redis.cli(&["ZCARD", "jobs:lease"]), "1");
    assert_eq!(delivery.ack().await.unwrap(), Settled::Done);
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn a_job_text_pushed_by_hand_keeps_its_id_and_can_be_settled_any_way() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    bench.redis.cli(&["LPUSH", "jobs:high_priority", &text(&job(7))]);
    let delivery = bench.claim_one(&consumer).await;
    assert_eq!(delivery.job.job_id, job(7).job_id);
    assert!(!delivery.foreign, "its id decides, not the way it came");
    assert_eq!(delivery.hand_back().await.unwrap(), Settled::Done);
    assert_eq!(bench.llen("jobs:high_priority"), 1);
    let delivery = bench.claim_one(&consumer).await;
    delivery.retry(Duration::ZERO, "x").await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let delivery = bench.claim_one(&consumer).await;
    assert_eq!(delivery.job.attempt, 2);
    delivery.ack().await.unwrap();
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn undecodable_elements_are_buried_with_their_text_and_hold_nobody_up() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    for text in [
        "not json",
        r#"{"run_id":"x"}"#,
        "{}",
        "[1,2]",
        "\"quoted\" \u{7f} text",
    ] {
        bench.redis.cli(&["LPUSH", "jobs:pending", text]);
    }
    bench.queue.push(&job(1)).await.unwrap();
    let claimed = consumer.claim(10).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].job, job(1));
    assert_eq!(bench.llen("jobs:failed"), 5);
    let oldest: serde_json::Value = serde_json::from_str(&bench.list("jobs:failed")[4]).unwrap();
    assert_eq!(oldest["payload"], "not json");
    assert_eq!(oldest["run_id"], serde_json::Value::Null);
    assert_eq!(oldest["reason"], "undecodable");
    assert!(oldest["failed_at"].is_string() && oldest["job_id"].is_string());
    assert_eq!(bench.redis.cli(&["ZCARD", "jobs:lease"]), "1");
}

#[tokio::test]
async fn two_copies_of_a_job_are_one_job() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    bench.queue.push(&job(1)).await.unwrap();
    bench.redis.cli(&["LPUSH", "jobs:pending", &text(&job(1))]);
    bench.redis.cli(&["LPUSH", "jobs:high_priority", &text(&job(1))]);
    let claimed = consumer.claim(10).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert_eq!(
        bench.snapshot(),
        "processing: 1\njobs:lease: 1\njobs:meta: 1\njobs:body: 1\n"
    );
    bench.redis.cli(&["LPUSH", "jobs:pending", &text(&job(1))]);
    assert!(consumer.claim(10).await.unwrap().is_empty());
    assert_eq!(bench.llen("jobs:processing"), 1);
    bench
        .redis
        .cli(&["LPUSH", "jobs:pending", &text(&job(1)).replace(":0", ": 0")]);
    assert!(consumer.claim(10).await.unwrap().is_empty());
    assert_eq!(
        bench.snapshot(),
        "processing: 1\njobs:lease: 1\njobs:meta: 1\njobs:body: 1\n"
    );
}

#[tokio::test]
async fn a_worker_that_dies_between_claim_and_completion_loses_nothing() {
    let bench = Bench::start().await;
    let run_id = fresh_run();
    bench
        .redis
        .cli(&["LPUSH", "jobs:pending", &format!(r#"{{"run_id":"{run_id}"}}"#)]);
    // The claim's own script, without the completion that follows it.
    let short = bench.consumer_with("w1", Duration::from_millis(20));
    {
        let claim = short.claim(1);
        tokio::pin!(claim);
        // Dropped as soon as the element has left the list, long before the completion is answered.
        tokio::select! {
            biased;
            () = async { while bench.llen("jobs:pending") == 1 { tokio::task::yield_now().await } } => {}
            claimed = &mut claim => drop(claimed.unwrap()),
        }
    }
    let maintenance = bench.queue.maintenance();
    testkit::eventually(Duration::from_secs(10), async || {
        maintenance.sweep().await.unwrap();
        bench.llen("jobs:pending") == 1
    })
    .await;
    let delivery = bench.claim_one(&bench.consumer_with("w2", LEASE)).await;
    assert_eq!(delivery.job.run_id, run_id);
    assert!(delivery.foreign);
    delivery.ack().await.unwrap();
    assert_eq!(bench.snapshot(), "");
}
