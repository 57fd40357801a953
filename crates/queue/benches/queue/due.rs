//! Retries that come due from a long list, and the longest time that one call takes the server on long lists.

use crate::Plan;
use crate::figures::{Figure, percentile};
use crate::support::{Server, jobs};
use domain::Job;
use jiff::{SignedDuration, Timestamp};
use queue::BuryReason;
use rand::seq::SliceRandom;
use std::collections::HashMap;

const BATCH: usize = 64;
/// Calls of each kind on long lists.
const CALLS: usize = 200;
const LONGEST_MS: f64 = 50.0;

fn server_time(server: &Server) -> Timestamp {
    let time = server.redis.cli(&["TIME"]);
    let (seconds, micros) = time.split_once('\n').unwrap();
    let us = seconds.parse::<i64>().unwrap() * 1_000_000 + micros.parse::<i64>().unwrap();
    Timestamp::from_microsecond(us).unwrap()
}

async fn push_waiting(server: &Server, mut waiting: Vec<(Job, Timestamp)>) {
    waiting.shuffle(&mut rand::rng());
    assert_eq!(
        server.queue.push_retries(&waiting, "x").await.unwrap(),
        waiting.len()
    );
}

/// Due at 5,000 a second in an order unlike that of the list.
pub(crate) async fn lateness(server: &Server, plan: Plan) -> Vec<Figure> {
    server.clear();
    let start = server_time(server) + SignedDuration::from_secs(30);
    let due_at = |number: usize| start + SignedDuration::from_micros(200 * number as i64);
    let waiting: Vec<(Job, Timestamp)> = jobs(plan.retries)
        .into_iter()
        .enumerate()
        .map(|(number, job)| (job, due_at(number)))
        .collect();
    let due: HashMap<_, _> = waiting
        .iter()
        .map(|(job, at)| (job.job_id, at.as_microsecond()))
        .collect();
    push_waiting(server, waiting).await;
    assert!(
        server_time(server) < start,
        "pushing took longer than the retries wait"
    );
    let mut consumer = server.consumer("late");
    let mut late_ms = Vec::new();
    while late_ms.len() < due.len() {
        consumer.wait().await;
        loop {
            let claimed = consumer.claim(BATCH).await.unwrap();
            if claimed.is_empty() {
                break;
            }
            late_ms.extend(
                claimed
                    .iter()
                    .map(|job| (job.epoch - due[&job.job_id()]) as f64 / 1e3),
            );
            queue::ack_all(claimed).await.unwrap();
        }
    }
    let earliest = percentile(&late_ms, 0.0);
    assert!(earliest >= 0.0, "{earliest} ms early");
    let name = format!("due retries among {}, claimed late", plan.retries);
    vec![
        Figure::new(format!("{name}, p50"), "ms", percentile(&late_ms, 50.0)),
        Figure::new(format!("{name}, p99"), "ms", percentile(&late_ms, 99.0)).at_most(100.0),
        Figure::new(format!("{name}, earliest"), "ms", earliest),
    ]
}

/// How long each script held the server since `watch`, in ms, from the slow log.
fn held_ms(server: &Server) -> Vec<f64> {
    let log = server.redis.cli(&["EVAL", SCRIPT_TIMES, "0"]);
    log.lines().map(|us| us.parse::<f64>().unwrap() / 1e3).collect()
}

const SCRIPT_TIMES: &str = "local all = {} \
    for _, entry in ipairs(redis.call('SLOWLOG', 'GET', -1)) do \
    if entry[4][1] == 'EVALSHA' then all[#all + 1] = entry[3] end end return all";

fn watch(server: &Server) {
    server.redis.cli(&["CONFIG", "SET", "slowlog-max-len", "2000"]);
    server
        .redis
        .cli(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    server.redis.cli(&["SLOWLOG", "RESET"]);
}

pub(crate) async fn longest_calls(server: &Server, plan: Plan) -> Vec<Figure> {
    let size = plan.retries;
    let figure = |what: &str, held: Vec<f64>| {
        Figure::new(
            format!("{what} among {size}, longest call"),
            "ms",
            percentile(&held, 100.0),
        )
        .at_most(LONGEST_MS)
        .beside("median", percentile(&held, 50.0))
    };
    vec![
        figure("remove from pending", remove(server, size, false).await),
        figure("remove from retry", remove(server, size, true).await),
        figure("claim of many due at once", claim_due(server, size).await),
        figure("dead letter back in line", requeue(server, size).await),
    ]
}

async fn remove(server: &Server, size: usize, waiting: bool) -> Vec<f64> {
    server.clear();
    let mut jobs = jobs(size);
    if waiting {
        let far = "2126-01-01T00:00:00Z".parse().unwrap();
        push_waiting(server, jobs.iter().map(|job| (job.clone(), far)).collect()).await;
    } else {
        server.queue.push_all(&jobs).await.unwrap();
    }
    jobs.shuffle(&mut rand::rng());
    watch(server);
    for job in jobs.iter().take(CALLS) {
        assert!(server.queue.remove(&job.job_id).await.unwrap());
    }
    held_ms(server)
}

async fn claim_due(server: &Server, size: usize) -> Vec<f64> {
    server.clear();
    let past = server_time(server);
    push_waiting(server, jobs(size).into_iter().map(|job| (job, past)).collect()).await;
    let consumer = server.consumer("due");
    watch(server);
    for _ in 0..10 {
        let claimed = consumer.claim(queue::MAX_CLAIM).await.unwrap();
        assert!(!claimed.is_empty());
        queue::ack_all(claimed).await.unwrap();
    }
    held_ms(server)
}

async fn requeue(server: &Server, size: usize) -> Vec<f64> {
    server.clear();
    server.queue.push_all(&jobs(size)).await.unwrap();
    let consumer = server.consumer("bury");
    loop {
        let claimed = consumer.claim(queue::MAX_CLAIM).await.unwrap();
        if claimed.is_empty() {
            break;
        }
        let buried = claimed
            .into_iter()
            .map(|job| job.bury(BuryReason::PermanentError, "x"));
        futures::future::join_all(buried)
            .await
            .into_iter()
            .for_each(|settled| assert_eq!(settled.unwrap(), queue::Settled::Done));
    }
    let letters = server.queue.dead_letters(size / 2, CALLS).await.unwrap();
    watch(server);
    for letter in &letters {
        assert!(server.queue.requeue_dead_letter(letter).await.unwrap());
    }
    held_ms(server)
}
