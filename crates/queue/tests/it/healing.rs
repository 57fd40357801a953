//! Leases that run out, and damage done by hand: two sweeps put it right.

use crate::support::{Bench, LONG, job, numbers, text, urgent};
use domain::{SystemIds, WorkerId};
use queue::{Queue, Renewal, Renewer, Settled};
use std::sync::Arc;
use std::time::Duration;
use testkit::eventually;

const LEASE: Duration = Duration::from_secs(9);

fn renewer(bench: &Bench) -> Renewer {
    Renewer::connect(&bench.options(), WorkerId::from("w1"), Arc::new(SystemIds)).unwrap()
}

async fn renewed(renewer: &mut Renewer, held: &[queue::HeldClaim]) -> Vec<Renewal> {
    for _ in 0..200 {
        match renewer.renew(held, LEASE).await {
            Ok(answers) => return answers,
            Err(fault) => assert!(fault.is_unavailable(), "{fault}"),
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("no renewal");
}

async fn sweep_twice(queue: &Queue) {
    let maintenance = queue.maintenance();
    for _ in 0..2 {
        eventually(LONG, async || maintenance.sweep().await.unwrap().is_some()).await;
    }
}

#[tokio::test]
async fn reclaims_jobs_whose_worker_died_to_the_front_in_their_order() {
    let bench = Bench::start().await;
    let dead = bench.consumer_with("dead", Duration::from_millis(50));
    bench
        .queue
        .push_all(&[job(1), job(2), urgent(3), job(4)])
        .await
        .unwrap();
    assert_eq!(numbers(&dead.claim(2).await.unwrap()), [3, 1]);
    assert_eq!(numbers(&dead.claim(1).await.unwrap()), [2]);
    sweep_until(&bench, 0).await;
    assert_eq!(
        bench.snapshot(),
        "high_priority: 3\npending: 1 2 4\njobs:meta: 4\njobs:body: 4\n"
    );
}

async fn sweep_until(bench: &Bench, processing: usize) {
    let maintenance = bench.queue.maintenance();
    eventually(LONG, async || {
        maintenance.sweep().await.unwrap();
        bench.llen("jobs:processing") == processing
    })
    .await;
}

#[tokio::test]
async fn many_workers_sweep_as_often_as_one() {
    let bench = Bench::start().await;
    bench.queue.push(&job(1)).await.unwrap();
    let _held = bench.claim_one(&bench.consumer("w1")).await;
    let (one, two) = (bench.queue.maintenance(), bench.queue.maintenance());
    assert!(one.sweep().await.unwrap().is_some());
    assert!(two.sweep().await.unwrap().is_none());
}

#[tokio::test]
async fn a_renewed_lease_does_not_run_out() {
    let bench = Bench::start().await;
    let consumer = bench.consumer_with("w1", Duration::from_millis(300));
    let mut renewer = renewer(&bench);
    bench.queue.push(&job(1)).await.unwrap();
    let delivery = bench.claim_one(&consumer).await;
    assert_eq!(renewed(&mut renewer, &[delivery.claim()]).await, [Renewal::Held]);
    tokio::time::sleep(Duration::from_millis(350)).await;
    sweep_twice(&bench.queue).await;
    assert_eq!(delivery.ack().await.unwrap(), Settled::Done);
}

#[tokio::test]
async fn a_settled_step_starts_the_count_of_crashes_again() {
    let bench = Bench::start().await;
    let mut renewer = renewer(&bench);
    let crash = bench.consumer_with("w1", Duration::from_millis(5));
    bench.queue.push(&job(1)).await.unwrap();
    for expected in 1..=2 {
        let delivery = bench.claim_one(&crash).await;
        assert_eq!(delivery.deliveries, expected);
        sweep_until(&bench, 0).await;
    }
    let delivery = bench.claim_one(&bench.consumer("w1")).await;
    assert_eq!(delivery.deliveries, 3);
    let mut claim = delivery.claim();
    claim.step_settled = true;
    renewed(&mut renewer, &[claim]).await;
    bench
        .redis
        .cli(&["ZADD", "jobs:lease", "1", &job(1).job_id.to_string()]);
    sweep_until(&bench, 0).await;
    assert_eq!(bench.claim_one(&crash).await.deliveries, 2);
}

#[tokio::test]
async fn a_lease_another_worker_owns_is_never_stolen() {
    let bench = Bench::start().await;
    let mut renewer = renewer(&bench);
    bench.queue.push(&job(1)).await.unwrap();
    let old = bench
        .claim_one(&bench.consumer_with("w1", Duration::from_millis(5)))
        .await;
    assert_eq!(renewed(&mut renewer, &[]).await, []);
    sweep_until(&bench, 0).await;
    let new = bench.claim_one(&bench.consumer("w2")).await;
    assert_eq!(renewed(&mut renewer, &[old.claim()]).await, [Renewal::Lost]);
    assert_eq!(old.ack().await.unwrap(), Settled::Stale);
    assert_eq!(new.ack().await.unwrap(), Settled::Done);
}

#[tokio::test]
async fn a_late_renewal_takes_back_what_a_sweep_put_in_line_and_nobody_claimed() {
    let bench = Bench::start().await;
    let mut renewer = renewer(&bench);
    bench.queue.push(&job(1)).await.unwrap();
    let delivery = bench
        .claim_one(&bench.consumer_with("w1", Duration::from_millis(5)))
        .await;
    sweep_until(&bench, 0).await;
    assert_eq!(
        renewed(&mut renewer, &[delivery.claim()]).await,
        [Renewal::Readopted]
    );
    assert_eq!(
        bench.snapshot(),
        "processing: 1\njobs:lease: 1\njobs:meta: 1\njobs:body: 1\n"
    );
    assert_eq!(delivery.ack().await.unwrap(), Settled::Done);
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn a_renewal_behind_a_settlement_does_not_bring_the_job_back() {
    let bench = Bench::start().await;
    let mut renewer = renewer(&bench);
    let consumer = bench.consumer("w1");
    bench.queue.push_all(&[job(1), job(2), job(3)]).await.unwrap();
    let claimed = consumer.claim(3).await.unwrap();
    let held: Vec<_> = claimed.iter().map(queue::Delivery::claim).collect();
    renewed(&mut renewer, &held).await;
    let mut claimed = claimed.into_iter();
    claimed.next().unwrap().ack().await.unwrap();
    claimed
        .next()
        .unwrap()
        .retry(Duration::from_mins(1), "x")
        .await
        .unwrap();
    claimed.next().unwrap().hand_back().await.unwrap();
    let before = bench.snapshot();
    assert_eq!(renewed(&mut renewer, &held).await, [Renewal::Lost; 3]);
    assert_eq!(bench.snapshot(), before);
}

#[tokio::test]
async fn after_flushall_the_jobs_in_hand_are_taken_back_and_can_be_settled() {
    let bench = Bench::start().await;
    let mut renewer = renewer(&bench);
    let consumer = bench.consumer("w1");
    bench.queue.push_all(&[job(1), urgent(2), job(3)]).await.unwrap();
    let claimed = consumer.claim(2).await.unwrap();
    let held: Vec<_> = claimed.iter().map(queue::Delivery::claim).collect();
    renewed(&mut renewer, &held).await;
    let incarnation = bench.queue.incarnation().await.unwrap();
    assert!(incarnation.is_some());
    bench.redis.cli(&["FLUSHALL"]);
    assert_eq!(bench.queue.incarnation().await.unwrap(), None);
    // The reconciler was quicker for one of them and pushed it again.
    assert!(bench.queue.push(&job(1)).await.unwrap());
    assert_eq!(renewed(&mut renewer, &held).await, [Renewal::Readopted; 2]);
    let all = [job(1).job_id, urgent(2).job_id, job(3).job_id];
    assert_eq!(bench.queue.missing(&all).await.unwrap(), [job(3).job_id]);
    assert_eq!(
        bench.snapshot(),
        "processing: 2 1\njobs:lease: 1 2\njobs:meta: 2\njobs:body: 2\n"
    );
    assert_ne!(bench.queue.incarnation().await.unwrap(), incarnation);
    assert_eq!(renewed(&mut renewer, &held).await, [Renewal::Held; 2]);
    for delivery in claimed {
        assert_eq!(delivery.ack().await.unwrap(), Settled::Done);
    }
    assert_eq!(bench.snapshot(), "");
    assert_eq!(renewed(&mut renewer, &held).await, [Renewal::Lost; 2]);
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn an_element_without_lease_is_queued_again_after_two_sweeps() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    bench.queue.push_all(&[job(1), job(2)]).await.unwrap();
    let claimed = consumer.claim(1).await.unwrap();
    bench.redis.cli(&["DEL", "jobs:lease"]);
    bench.redis.cli(&[
        "LPUSH",
        "jobs:processing",
        r#"{"run_id":"7a5f0000-0000-4000-8000-000000000001"}"#,
    ]);
    eventually(LONG, async || {
        bench.queue.maintenance().sweep().await.unwrap().is_some()
    })
    .await;
    assert_eq!(bench.llen("jobs:processing"), 2);
    eventually(LONG, async || {
        bench.queue.maintenance().sweep().await.unwrap().is_some()
    })
    .await;
    assert_eq!(bench.llen("jobs:processing"), 0);
    assert_eq!(bench.llen("jobs:pending"), 3);
    let again = consumer.claim(5).await.unwrap();
    assert_eq!(again.len(), 3);
    assert_eq!(
        claimed.into_iter().next().unwrap().ack().await.unwrap(),
        Settled::Stale
    );
}

#[tokio::test]
async fn entries_removed_or_moved_by_hand_come_back_while_their_lease_lives() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    bench.queue.push_all(&[job(1), job(2)]).await.unwrap();
    let claimed = consumer.claim(2).await.unwrap();
    bench.redis.cli(&["RPOPLPUSH", "jobs:processing", "jobs:pending"]);
    bench.redis.cli(&["DEL", "jobs:processing"]);
    sweep_twice(&bench.queue).await;
    assert_eq!(bench.llen("jobs:processing"), 2);
    assert_eq!(bench.llen("jobs:pending"), 0);
    bench.redis.cli(&["RPOPLPUSH", "jobs:processing", "jobs:pending"]);
    assert!(consumer.claim(2).await.unwrap().is_empty(), "it is in hand");
    assert_eq!(bench.llen("jobs:processing"), 2);
    for delivery in claimed {
        assert_eq!(delivery.ack().await.unwrap(), Settled::Done);
    }
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn a_lost_meta_hash_does_not_cost_the_jobs_in_hand() {
    let bench = Bench::start().await;
    let mut renewer = renewer(&bench);
    let consumer = bench.consumer("w1");
    bench.queue.push_all(&[job(1), job(2)]).await.unwrap();
    let delivery = bench.claim_one(&consumer).await;
    renewed(&mut renewer, &[delivery.claim()]).await;
    bench.redis.cli(&["DEL", "jobs:meta", "jobs:body"]);
    assert_eq!(
        renewed(&mut renewer, &[delivery.claim()]).await,
        [Renewal::Readopted]
    );
    let other = bench.claim_one(&consumer).await;
    assert_eq!(other.job, job(2));
    assert_eq!(other.ack().await.unwrap(), Settled::Done);
    assert_eq!(delivery.ack().await.unwrap(), Settled::Done);
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn jobs_removed_from_their_list_by_hand_can_be_pushed_again_after_two_audits() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    let mut maintenance = bench.queue.maintenance();
    bench
        .queue
        .push_all(&[job(1), job(2), job(3), job(4)])
        .await
        .unwrap();
    let mut claimed = consumer.claim(3).await.unwrap();
    claimed
        .remove(1)
        .retry(Duration::from_mins(1), "x")
        .await
        .unwrap();
    claimed
        .remove(1)
        .retry(Duration::from_mins(1), "x")
        .await
        .unwrap();
    assert_eq!(maintenance.audit().await.unwrap(), 0);
    bench.redis.cli(&["DEL", "jobs:pending"]);
    bench.redis.cli(&["LPOP", "jobs:retry"]);
    bench
        .redis
        .cli(&["ZREM", "jobs:retry:due", &job(2).job_id.to_string()]);
    assert_eq!(maintenance.audit().await.unwrap(), 0);
    assert!(!bench.queue.push(&job(4)).await.unwrap());
    assert_eq!(maintenance.audit().await.unwrap(), 3);
    assert_eq!(
        bench.snapshot(),
        "pending: 2\nprocessing: 1\njobs:lease: 1\njobs:meta: 2\njobs:body: 2\n"
    );
    assert_eq!(bench.list("jobs:pending"), [text(&job(2).next_attempt())]);
    assert!(bench.queue.push(&job(4)).await.unwrap());
    assert!(bench.queue.push(&job(3)).await.unwrap());
    assert_eq!(maintenance.audit().await.unwrap(), 0);
}

#[tokio::test]
async fn the_reconciler_sees_every_job_with_its_list() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    let jobs: Vec<_> = (0..1200).map(job).collect();
    assert_eq!(bench.queue.push_all(&jobs).await.unwrap(), 1200);
    let claimed = consumer.claim(10).await.unwrap();
    let mut cursor = None;
    let mut seen = std::collections::HashMap::new();
    loop {
        let page = bench.queue.entries(cursor.as_deref(), 500).await.unwrap();
        for entry in page.entries {
            assert_eq!(entry.job.as_ref().unwrap().job_id, entry.job_id);
            seen.insert(entry.job_id, entry.list);
        }
        match page.cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert_eq!(seen.len(), 1200);
    let processing = seen
        .values()
        .filter(|list| **list == queue::ListName::Processing)
        .count();
    assert_eq!(processing, claimed.len());
}
