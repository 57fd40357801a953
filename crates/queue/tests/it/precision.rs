//! Many retries that come due in any order: none early, none lost, none twice.

use crate::support::{Bench, LONG, job};
use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;
use tokio::time::Instant;

const RETRIES: u128 = 5000;
/// They come due over this time, in an order that has nothing to do with the order in the list.
const SPREAD_MS: u128 = 2000;
const SCATTER: u128 = 7919;

fn server_time(bench: &Bench) -> Timestamp {
    let time = bench.redis.cli(&["TIME"]);
    let (seconds, micros) = time.split_once('\n').unwrap();
    Timestamp::from_microsecond(seconds.parse::<i64>().unwrap() * 1_000_000 + micros.parse::<i64>().unwrap())
        .unwrap()
}

#[tokio::test]
async fn of_thousands_of_retries_due_in_any_order_none_is_early_and_none_is_lost() {
    let bench = Bench::start().await;
    let mut consumer = bench.consumer("w1");
    let start = server_time(&bench) + SignedDuration::from_secs(2);
    let due_of = |number: u128| {
        let ms = number * SCATTER % SPREAD_MS;
        start + SignedDuration::from_millis(ms as i64)
    };
    let waiting: Vec<_> = (0..RETRIES)
        .map(|number| (job(number).next_attempt(), due_of(number)))
        .collect();
    assert_eq!(
        bench.queue.push_retries(&waiting, "x").await.unwrap(),
        waiting.len()
    );
    let due: HashMap<_, _> = waiting.into_iter().map(|(job, at)| (job.job_id, at)).collect();
    let mut claimed = HashMap::new();
    let deadline = Instant::now() + LONG;
    while claimed.len() < due.len() {
        assert!(
            Instant::now() < deadline,
            "{} of {} came",
            claimed.len(),
            due.len()
        );
        consumer.wait().await;
        let deliveries = consumer.claim(64).await.unwrap();
        for delivery in &deliveries {
            // The epoch of a first claim is the server's time in microseconds.
            let early_us = due[&delivery.job.job_id].as_microsecond() - delivery.epoch;
            assert!(early_us <= 0, "{early_us} us early");
            assert!(
                claimed.insert(delivery.job.job_id, delivery.epoch).is_none(),
                "twice"
            );
        }
        queue::ack_all(deliveries).await.unwrap();
    }
    assert_eq!(bench.snapshot(), "");
    assert_eq!(bench.redis.cli(&["EXISTS", "jobs:retry:place"]), "0");
}
