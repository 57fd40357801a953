//! The life of a job while nothing goes wrong.

use crate::support::{Bench, LONG, connected, consumer, job, numbers, text, urgent};
use queue::{BuryReason, ListName, Settled, ack_all};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

#[tokio::test]
async fn a_job_is_pushed_claimed_and_acknowledged() {
    let bench = Bench::start().await;
    assert!(bench.queue.push(&job(1)).await.unwrap());
    assert_eq!(bench.list("jobs:pending"), [text(&job(1))]);
    let consumer = bench.consumer("w1");
    let delivery = bench.claim_one(&consumer).await;
    assert_eq!(delivery.job, job(1));
    assert_eq!((delivery.deliveries, delivery.foreign), (1, false));
    assert_eq!(
        bench.snapshot(),
        "processing: 1\njobs:lease: 1\njobs:meta: 1\njobs:body: 1\n"
    );
    assert_eq!(bench.list("jobs:processing"), [text(&job(1))]);
    assert_eq!(delivery.ack().await.unwrap(), Settled::Done);
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn pushing_a_known_job_again_changes_nothing() {
    let bench = Bench::start().await;
    assert!(bench.queue.push(&job(1)).await.unwrap());
    assert!(!bench.queue.push(&job(1)).await.unwrap());
    let consumer = bench.consumer("w1");
    let delivery = bench.claim_one(&consumer).await;
    assert!(!bench.queue.push(&job(1)).await.unwrap());
    assert_eq!(bench.queue.depths().await.unwrap().pending, 0);
    delivery.ack().await.unwrap();
    assert!(bench.queue.push(&job(1)).await.unwrap());
}

#[tokio::test]
async fn high_priority_goes_before_due_retries_before_pending_each_first_in_first_out() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    bench.queue.push_all(&[job(1), job(2)]).await.unwrap();
    for delivery in consumer.claim(2).await.unwrap() {
        delivery.retry(Duration::ZERO, "boom").await.unwrap();
    }
    bench
        .queue
        .push_all(&[job(3), urgent(4), job(5), urgent(6)])
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let claimed = consumer.claim(10).await.unwrap();
    assert_eq!(numbers(&claimed), [4, 6, 1, 2, 3, 5]);
    assert_eq!(claimed[2].job.attempt, 2);
    let settled = ack_all(claimed).await.unwrap();
    assert_eq!(settled, vec![Settled::Done; 6]);
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn a_hand_back_goes_to_the_front_and_counts_nothing() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    bench.queue.push_all(&[job(1), job(2), urgent(3)]).await.unwrap();
    let mut claimed = consumer.claim(2).await.unwrap();
    assert_eq!(numbers(&claimed), [3, 1]);
    claimed.pop().unwrap().hand_back().await.unwrap();
    claimed.pop().unwrap().hand_back().await.unwrap();
    assert_eq!(
        bench.snapshot(),
        "high_priority: 3\npending: 1 2\njobs:meta: 3\njobs:body: 3\n"
    );
    let again = consumer.claim(3).await.unwrap();
    assert_eq!(numbers(&again), [3, 1, 2]);
    for delivery in &again {
        assert_eq!((delivery.deliveries, delivery.job.attempt), (1, 1));
    }
}

#[tokio::test]
async fn a_buried_job_shows_its_reason_and_error() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    bench.queue.push(&job(1)).await.unwrap();
    let delivery = bench.claim_one(&consumer).await;
    delivery
        .bury(BuryReason::PermanentError, "said \"no\"\n")
        .await
        .unwrap();
    let element: serde_json::Value = serde_json::from_str(&bench.list("jobs:failed")[0]).unwrap();
    let keys: Vec<&String> = element.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "job_id",
            "run_id",
            "attempt",
            "retry_count",
            "priority",
            "enqueued_at",
            "traceparent",
            "failed_at",
            "error",
            "reason"
        ]
    );
    assert_eq!(element["error"], "said \"no\"\n");
    assert_eq!(element["reason"], "permanent_error");
    let failed_at: jiff::Timestamp = element["failed_at"].as_str().unwrap().parse().unwrap();
    let server: i64 = bench
        .redis
        .cli(&["TIME"])
        .lines()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((server - failed_at.as_second()).abs() <= 2, "{failed_at}");
    assert_eq!(bench.snapshot(), "failed: 1\njobs:meta: 1\njobs:body: 1\n");
    assert!(!bench.queue.push(&job(1)).await.unwrap());
}

#[tokio::test]
async fn a_stale_epoch_changes_nothing() {
    let bench = Bench::start().await;
    let first = bench.consumer_with("w1", Duration::from_millis(30));
    bench
        .queue
        .push_all(&[job(1), job(2), job(3), job(4)])
        .await
        .unwrap();
    let old = first.claim(4).await.unwrap();
    let maintenance = bench.queue.maintenance();
    testkit::eventually(LONG, async || {
        maintenance.sweep().await.unwrap();
        bench.llen("jobs:pending") == 4
    })
    .await;
    let second = bench.consumer("w2");
    let new = second.claim(4).await.unwrap();
    assert_eq!(numbers(&new), [1, 2, 3, 4]);
    assert!(
        new.iter()
            .zip(&old)
            .all(|(new, old)| new.epoch > old.epoch && new.deliveries == 2)
    );
    let before = bench.snapshot();
    let mut old = old.into_iter();
    assert_eq!(old.next().unwrap().ack().await.unwrap(), Settled::Stale);
    assert_eq!(
        old.next().unwrap().retry(Duration::ZERO, "x").await.unwrap(),
        Settled::Stale
    );
    assert_eq!(
        old.next().unwrap().bury(BuryReason::Poison, "x").await.unwrap(),
        Settled::Stale
    );
    assert_eq!(old.next().unwrap().hand_back().await.unwrap(), Settled::Stale);
    assert_eq!(bench.snapshot(), before);
}

#[tokio::test]
async fn a_stopped_job_is_taken_out_of_whatever_holds_it() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    bench.queue.push_all(&[job(1), job(2)]).await.unwrap();
    let mut claimed = consumer.claim(2).await.unwrap();
    claimed
        .pop()
        .unwrap()
        .retry(Duration::from_mins(1), "later")
        .await
        .unwrap();
    bench.queue.push_all(&[job(3), urgent(4)]).await.unwrap();
    for number in 1..=4 {
        assert!(bench.queue.remove(&job(number).job_id).await.unwrap(), "{number}");
    }
    assert!(!bench.queue.remove(&job(1).job_id).await.unwrap());
    assert_eq!(bench.snapshot(), "");
    assert_eq!(claimed.pop().unwrap().ack().await.unwrap(), Settled::Gone);
}

#[tokio::test]
async fn a_rewritten_job_keeps_its_lease_and_place() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    bench.queue.push(&job(1)).await.unwrap();
    let mut delivery = bench.claim_one(&consumer).await;
    delivery.job = delivery.job.next_attempt();
    assert_eq!(delivery.rewrite().await.unwrap(), Settled::Done);
    assert_eq!(bench.list("jobs:processing"), [text(&job(1).next_attempt())]);
    assert_eq!(delivery.raw, text(&job(1).next_attempt()));
    assert_eq!(delivery.ack().await.unwrap(), Settled::Done);
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_claimers_execute_each_of_a_thousand_jobs_exactly_once() {
    const JOBS: u128 = 1000;
    let bench = Bench::start().await;
    let mut workers = JoinSet::new();
    for number in 0..8 {
        let queue = connected(&bench.redis.url()).await;
        workers.spawn(async move {
            let mut consumer = consumer(&queue, &format!("w{number}"), Duration::from_secs(30));
            let mut done = Vec::new();
            let mut idle_since = Instant::now();
            while idle_since.elapsed() < Duration::from_secs(3) {
                let claimed = consumer.claim(4).await.unwrap();
                if claimed.is_empty() {
                    consumer.wait().await;
                    continue;
                }
                idle_since = Instant::now();
                done.extend(numbers(&claimed));
                for settled in ack_all(claimed).await.unwrap() {
                    assert_eq!(settled, Settled::Done);
                }
            }
            done
        });
    }
    for number in 0..JOBS {
        let one = if number % 3 == 0 {
            urgent(number)
        } else {
            job(number)
        };
        assert!(bench.queue.push(&one).await.unwrap());
    }
    let mut seen: HashMap<u128, u32> = HashMap::new();
    while let Some(done) = workers.join_next().await {
        for number in done.unwrap() {
            *seen.entry(number).or_default() += 1;
        }
    }
    assert_eq!(seen.len() as u128, JOBS);
    assert!(seen.values().all(|times| *times == 1));
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn the_lists_can_be_counted_and_looked_at() {
    let bench = Bench::start().await;
    bench.queue.push_all(&[job(1), job(2), urgent(3)]).await.unwrap();
    let depths = bench.queue.depths().await.unwrap();
    assert_eq!(
        (depths.high_priority, depths.pending, depths.of(ListName::Failed)),
        (1, 2, 0)
    );
    assert_eq!(
        bench.queue.peek(ListName::Pending, 0, 1).await.unwrap(),
        [text(&job(2))]
    );
    assert_eq!(
        bench.queue.peek(ListName::Pending, 1, 9).await.unwrap(),
        [text(&job(1))]
    );
    let glance = bench.queue.glance().await.unwrap();
    assert_eq!((glance.depths, glance.orphans, glance.paused), (depths, 0, false));
    let now_s: u64 = bench
        .redis
        .cli(&["TIME"])
        .lines()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let enqueued_s = u64::try_from(job(1).enqueued_at.as_second()).unwrap();
    let age_s = glance.oldest_pending_age_ms.unwrap() / 1000;
    assert!(now_s.saturating_sub(enqueued_s).abs_diff(age_s) <= 2, "{age_s}");
}

#[tokio::test]
async fn an_idle_consumer_is_woken_at_once_and_asks_at_most_three_times_a_second() {
    let bench = Bench::start().await;
    let mut consumer = bench.consumer("w1");
    consumer.wait().await;
    let commands = |bench: &Bench| -> u64 {
        let info = bench.redis.cli(&["INFO", "stats"]);
        let line = info
            .lines()
            .find(|line| line.starts_with("total_commands_processed"))
            .unwrap();
        line.trim().rsplit(':').next().unwrap().parse().unwrap()
    };
    let maintenance = bench.queue.maintenance();
    let (before, started) = (commands(&bench), Instant::now());
    while started.elapsed() < Duration::from_secs(3) {
        consumer.wait().await;
        assert!(consumer.claim(4).await.unwrap().is_empty());
        maintenance.sweep().await.unwrap();
    }
    let asked = commands(&bench) - before;
    // The server counts commands inside scripts too: three calls a second are seven commands.
    assert!(asked <= 8 * 3 + 2, "{asked} commands in 3 s");

    let queue = bench.queue.clone();
    let pushed = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        queue.push(&job(1)).await.unwrap();
        Instant::now()
    });
    let claimed = loop {
        consumer.wait().await;
        let claimed = consumer.claim(1).await.unwrap();
        if !claimed.is_empty() {
            break Instant::now();
        }
    };
    let late = claimed.duration_since(pushed.await.unwrap());
    assert!(late < Duration::from_millis(200), "{late:?}");
}
