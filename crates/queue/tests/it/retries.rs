//! Waiting for a retry time: never early, hardly late.

use crate::support::{Bench, job, text};
use queue::Settled;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_retry_shows_its_error_and_time_and_the_next_attempt() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    bench.queue.push(&job(1)).await.unwrap();
    let delivery = bench.claim_one(&consumer).await;
    delivery
        .retry(Duration::from_mins(1), "model said 503")
        .await
        .unwrap();
    let element = bench.list("jobs:retry").remove(0);
    let plain = text(&job(1).next_attempt());
    let start = format!(
        r#"{},"last_error":"model said 503","retry_at":""#,
        plain.strip_suffix('}').unwrap()
    );
    assert!(element.starts_with(&start), "{element}");
    assert_eq!(
        bench.snapshot(),
        "retry: 1\njobs:retry:due: 1\njobs:meta: 1\njobs:body: 1\n"
    );
    assert!(consumer.claim(1).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_retry_is_never_early_and_an_idle_worker_is_hardly_late() {
    let bench = Bench::start().await;
    let mut consumer = bench.consumer("w1");
    for delay_ms in [1_u64, 40, 300, 1_200, 1_700] {
        bench.queue.push(&job(1)).await.unwrap();
        let delivery = bench.claim_one(&consumer).await;
        delivery
            .retry(Duration::from_millis(delay_ms), "again")
            .await
            .unwrap();
        let element: serde_json::Value = serde_json::from_str(&bench.list("jobs:retry")[0]).unwrap();
        let retry_at: jiff::Timestamp = element["retry_at"].as_str().unwrap().parse().unwrap();
        let started = Instant::now();
        let again = loop {
            consumer.wait().await;
            let mut claimed = consumer.claim(1).await.unwrap();
            if let Some(again) = claimed.pop() {
                break again;
            }
            assert!(started.elapsed() < Duration::from_secs(10));
        };
        let late_us = again.epoch - retry_at.as_microsecond();
        assert!(late_us >= 0, "{delay_ms} ms: {late_us} us early");
        assert!(late_us < 250_000, "{delay_ms} ms: {late_us} us late");
        assert_eq!(again.raw, text(&job(1).next_attempt()));
        assert_eq!(bench.list("jobs:processing"), std::slice::from_ref(&again.raw));
        assert_eq!(again.ack().await.unwrap(), Settled::Done);
        assert_eq!(bench.snapshot(), "");
    }
}

#[tokio::test]
async fn a_lost_retry_is_put_back_with_its_time() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    let due = "2099-01-01T00:00:00.5Z".parse().unwrap();
    let next = job(1).next_attempt();
    assert!(bench.queue.push_retry(&next, due, "lost").await.unwrap());
    assert!(!bench.queue.push_retry(&next, due, "lost").await.unwrap());
    assert!(consumer.claim(1).await.unwrap().is_empty());
    let element: serde_json::Value = serde_json::from_str(&bench.list("jobs:retry")[0]).unwrap();
    assert_eq!(element["retry_at"], "2099-01-01T00:00:00.500000Z");
    bench
        .redis
        .cli(&["ZADD", "jobs:retry:due", "1", &next.job_id.to_string()]);
    let delivery = bench.claim_one(&consumer).await;
    assert_eq!(delivery.job, next);
    assert_eq!(bench.list("jobs:processing"), [text(&next)]);
}

#[tokio::test]
async fn a_clean_end_breaks_a_row_of_crashes() {
    let bench = Bench::start().await;
    let short = bench.consumer_with("w1", Duration::from_millis(5));
    let maintenance = bench.queue.maintenance();
    bench.queue.push(&job(1)).await.unwrap();
    drop(bench.claim_one(&short).await);
    testkit::eventually(Duration::from_secs(10), async || {
        maintenance.sweep().await.unwrap();
        bench.llen("jobs:pending") == 1
    })
    .await;
    let second = bench.claim_one(&bench.consumer("w2")).await;
    assert_eq!(second.deliveries, 2);
    second.retry(Duration::ZERO, "x").await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let third = bench.claim_one(&bench.consumer("w2")).await;
    assert_eq!(third.deliveries, 1);
}

#[tokio::test]
async fn retries_coming_due_in_any_order_leave_a_long_list_one_by_one() {
    const JOBS: u128 = 2000;
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    let far: jiff::Timestamp = "2099-01-01T00:00:00Z".parse().unwrap();
    for number in 0..JOBS {
        let next = job(number).next_attempt();
        assert!(bench.queue.push_retry(&next, far, "x").await.unwrap());
    }
    // A hand takes some out and puts one back elsewhere: all places are wrong from here on.
    bench.redis.cli(&["RPOPLPUSH", "jobs:retry", "jobs:retry"]);
    assert!(bench.queue.remove(&job(700).job_id).await.unwrap());
    let mut left: Vec<u128> = (0..JOBS).filter(|number| *number != 700).collect();
    let mut step = 0;
    while !left.is_empty() {
        step = (step + 7919) % left.len();
        let batch: Vec<u128> = (0..left.len().min(50))
            .map(|_| {
                let number = left.swap_remove(step % left.len());
                let id = job(number).job_id.to_string();
                bench
                    .redis
                    .cli(&["ZADD", "jobs:retry:due", &format!("{}", 1 + number % 3), &id]);
                number
            })
            .collect();
        let claimed = consumer.claim(200).await.unwrap();
        let mut seen = crate::support::numbers(&claimed);
        seen.sort_unstable();
        let mut wanted = batch;
        wanted.sort_unstable();
        assert_eq!(seen, wanted);
        assert_eq!(bench.llen("jobs:retry"), left.len());
        queue::ack_all(claimed).await.unwrap();
    }
    assert_eq!(bench.snapshot(), "");
    assert_eq!(bench.redis.cli(&["EXISTS", "jobs:retry:place"]), "0");
}
