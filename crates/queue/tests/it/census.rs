//! What a census finds, and that an audit mends it: hand-made damage of every kind.

use crate::support::{Bench, job, text, urgent};
use domain::JobId;
use queue::Fault;
use std::time::Duration;
use uuid::Uuid;

async fn kinds(bench: &Bench) -> Vec<&'static str> {
    let faults = bench.queue.census().await.unwrap().faults();
    faults.iter().map(Fault::kind).collect()
}

/// Two audits, of which the second mends.
async fn audited(bench: &Bench) {
    let mut maintenance = bench.queue.maintenance();
    maintenance.look_closely();
    assert_eq!(maintenance.audit().await.unwrap(), 0, "one look is not enough");
    assert!(maintenance.audit().await.unwrap() > 0);
}

fn id(number: u128) -> String {
    job(number).job_id.to_string()
}

#[tokio::test]
async fn a_whole_queue_has_no_fault() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    bench
        .queue
        .push_all(&[job(1), job(2), urgent(3), job(4)])
        .await
        .unwrap();
    bench
        .claim_one(&consumer)
        .await
        .retry(Duration::from_mins(1), "x")
        .await
        .unwrap();
    let buried = bench.claim_one(&consumer).await;
    buried.bury(queue::BuryReason::MaxAttempts, "x").await.unwrap();
    let _held = bench.claim_one(&consumer).await;
    bench
        .redis
        .cli(&["LPUSH", "jobs:pending", r#"{"run_id":"by hand"}"#]);
    assert_eq!(kinds(&bench).await, [""; 0]);
    // A dead letter put in a line is a job like any other.
    bench.redis.cli(&["RPOPLPUSH", "jobs:failed", "jobs:pending"]);
    assert_eq!(kinds(&bench).await, [""; 0]);
}

#[tokio::test]
async fn an_element_moved_to_another_list_goes_back() {
    for target in ["jobs:failed", "jobs:retry", "jobs:high_priority"] {
        let bench = Bench::start().await;
        bench.queue.push_all(&[job(1), job(2)]).await.unwrap();
        bench
            .redis
            .cli(&["LMOVE", "jobs:pending", target, "LEFT", "LEFT"]);
        assert_eq!(kinds(&bench).await, ["wrong_list"], "{target}");
        audited(&bench).await;
        assert_eq!(
            bench.snapshot(),
            "pending: 2 1\njobs:meta: 2\njobs:body: 2\n",
            "{target}"
        );
        assert_eq!(kinds(&bench).await, [""; 0]);
    }
}

#[tokio::test]
async fn a_retry_moved_to_a_line_waits_for_its_time_again() {
    let bench = Bench::start().await;
    let at = "2126-01-01T00:00:00Z".parse().unwrap();
    bench.queue.push_retry(&job(1), at, "x").await.unwrap();
    let before = (bench.snapshot(), bench.list("jobs:retry"));
    bench.redis.cli(&["RPOPLPUSH", "jobs:retry", "jobs:pending"]);
    assert_eq!(kinds(&bench).await, ["wrong_list", "stray_due"]);
    audited(&bench).await;
    assert_eq!((bench.snapshot(), bench.list("jobs:retry")), before);
}

#[tokio::test]
async fn of_doubled_elements_one_stays() {
    let bench = Bench::start().await;
    bench.queue.push_all(&[job(1), job(2)]).await.unwrap();
    let whole = bench.snapshot();
    for list in ["jobs:pending", "jobs:failed", "jobs:high_priority", "jobs:retry"] {
        bench.redis.cli(&["LPUSH", list, &text(&job(1))]);
        assert_eq!(kinds(&bench).await, ["doubled"], "{list}");
        audited(&bench).await;
        assert_eq!(bench.snapshot(), whole, "{list}");
    }
    // Another text under a known id is not the job we know.
    bench.redis.cli(&["LPUSH", "jobs:pending", &text(&urgent(1))]);
    assert_eq!(kinds(&bench).await, ["doubled"]);
    audited(&bench).await;
    assert_eq!(bench.list("jobs:pending"), [text(&job(2)), text(&job(1))]);
}

#[tokio::test]
async fn a_copy_of_a_held_element_in_a_line_is_removed() {
    let bench = Bench::start().await;
    bench.queue.push(&job(1)).await.unwrap();
    let held = bench.claim_one(&bench.consumer("w1")).await;
    let whole = bench.snapshot();
    bench.redis.cli(&["LPUSH", "jobs:pending", &text(&job(1))]);
    assert_eq!(kinds(&bench).await, ["doubled"]);
    audited(&bench).await;
    assert_eq!(bench.snapshot(), whole);
    held.ack().await.unwrap();
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn what_is_half_known_is_completed() {
    let bench = Bench::start().await;
    bench.queue.push_all(&[job(1), job(2)]).await.unwrap();
    bench.redis.cli(&["HDEL", "jobs:meta", &id(1)]);
    bench.redis.cli(&["HDEL", "jobs:body", &id(2)]);
    assert_eq!(kinds(&bench).await, ["torn", "torn"]);
    audited(&bench).await;
    assert_eq!(bench.snapshot(), "pending: 1 2\njobs:meta: 2\njobs:body: 2\n");
    assert!(!bench.queue.push(&job(1)).await.unwrap());
    let claimed = bench.consumer("w1").claim(5).await.unwrap();
    assert!(claimed.iter().all(|delivery| !delivery.foreign));
    for delivery in claimed {
        delivery.ack().await.unwrap();
    }
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn times_and_leases_of_nothing_are_removed() {
    let bench = Bench::start().await;
    let ghost = JobId(Uuid::from_u128(7)).to_string();
    bench.queue.push(&job(1)).await.unwrap();
    bench.redis.cli(&[
        "ZADD",
        "jobs:retry:due",
        "9999999999999",
        &ghost,
        "9999999999999",
        &id(1),
    ]);
    bench.redis.cli(&[
        "ZADD",
        "jobs:lease",
        "9999999999999",
        &ghost,
        "9999999999999",
        &id(1),
    ]);
    assert_eq!(
        kinds(&bench).await,
        ["stray_due", "stray_due", "stray_lease", "stray_lease"]
    );
    audited(&bench).await;
    assert_eq!(bench.snapshot(), "pending: 1\njobs:meta: 1\njobs:body: 1\n");
}

#[tokio::test]
async fn a_job_known_and_in_no_list_is_forgotten_unless_it_is_held() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    bench.queue.push_all(&[job(1), job(2)]).await.unwrap();
    let held = bench.claim_one(&consumer).await;
    bench.redis.cli(&["DEL", "jobs:pending", "jobs:processing"]);
    assert_eq!(kinds(&bench).await, ["lost", "stray_lease"]);
    audited(&bench).await;
    assert_eq!(bench.snapshot(), "jobs:lease: 1\njobs:meta: 1\njobs:body: 1\n");
    assert_eq!(held.ack().await.unwrap(), queue::Settled::Done);
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn a_lease_can_be_ended_unless_the_job_was_claimed_anew() {
    let bench = Bench::start().await;
    bench.queue.push(&job(1)).await.unwrap();
    let delivery = bench.claim_one(&bench.consumer("lost worker")).await;
    let lease = bench.queue.census().await.unwrap().leases().remove(0);
    assert_eq!(
        (lease.worker(), lease.run_id),
        ("lost_worker", Some(job(1).run_id))
    );
    delivery.hand_back().await.unwrap();
    let again = bench.claim_one(&bench.consumer("w2")).await;
    assert!(!bench.queue.expire_lease(&lease).await.unwrap());
    let lease = bench.queue.census().await.unwrap().leases().remove(0);
    assert!(bench.queue.expire_lease(&lease).await.unwrap());
    let maintenance = bench.queue.maintenance();
    assert_eq!(maintenance.sweep().await.unwrap().unwrap().reclaimed, 1);
    assert_eq!(bench.llen("jobs:pending"), 1);
    drop(again);
}
