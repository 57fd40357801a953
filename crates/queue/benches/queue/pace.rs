//! From claim to acknowledgement, with lease, epoch and the job read; pushing; the way to an idle consumer.

use crate::Plan;
use crate::ceiling::Ceiling;
use crate::figures::{Figure, median, percentile};
use crate::support::{Server, connect, consumer, jobs};
use futures::future::join_all;
use std::time::Instant;

const BATCH: usize = 64;
const BATCH_CLAIMERS: usize = 4;
const SINGLE_CLAIMERS: usize = 16;

/// Jobs per second and the share of one core that the server used.
struct Pace {
    per_s: f64,
    server_cpu: f64,
}

async fn paced(server: &Server, jobs: usize, work: impl Future<Output = ()>) -> Pace {
    let (cpu, started) = (server.cpu_s(), Instant::now());
    work.await;
    let seconds = started.elapsed().as_secs_f64();
    Pace {
        per_s: jobs as f64 / seconds,
        server_cpu: (server.cpu_s() - cpu) / seconds,
    }
}

fn summed(rounds: &[Pace]) -> (f64, f64) {
    let of = |value: fn(&Pace) -> f64| median(&rounds.iter().map(value).collect::<Vec<_>>());
    (of(|pace| pace.per_s), of(|pace| pace.server_cpu))
}

/// Claimers share one connection by twos, as the tasks of a worker do.
async fn drain(server: &Server, claimers: usize, batch: usize) {
    let claimer = |number: usize| {
        let consumer = server.consumer(&format!("w{number}"));
        tokio::spawn(async move {
            loop {
                let mut claimed = consumer.claim(batch).await.unwrap();
                match claimed.len() {
                    0 => return,
                    1 => drop(claimed.remove(0).ack().await.unwrap()),
                    _ => drop(queue::ack_all(claimed).await.unwrap()),
                }
            }
        })
    };
    for ended in join_all((0..claimers).map(claimer)).await {
        ended.unwrap();
    }
}

pub(crate) async fn batches(server: &Server, plan: Plan, ceiling: &Ceiling) -> Vec<Figure> {
    let (mut pushes, mut claims) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        server.clear();
        let jobs = jobs(plan.jobs);
        let push = async { assert_eq!(server.queue.push_all(&jobs).await.unwrap(), plan.jobs) };
        pushes.push(paced(server, plan.jobs, push).await);
        claims.push(paced(server, plan.jobs, drain(server, BATCH_CLAIMERS, BATCH)).await);
        assert_eq!(server.queue.depths().await.unwrap(), queue::Depths::default());
    }
    let goal = if server.fsync == "always" {
        40_000.0
    } else {
        100_000.0
    };
    let (push, push_cpu) = summed(&pushes);
    let (claim, claim_cpu) = summed(&claims);
    let fsync = server.fsync;
    vec![
        Figure::new(format!("{fsync}: push, batches of 500"), "jobs/s", push)
            .beside("of piped LPUSH", push / ceiling.lpush_piped)
            .beside("server cores", push_cpu),
        Figure::new(
            format!("{fsync}: claim to ack, batches of {BATCH}, {BATCH_CLAIMERS} claimers"),
            "jobs/s",
            claim,
        )
        .at_least(goal)
        .beside("of piped LPUSH", claim / ceiling.lpush_piped)
        .beside("server cores", claim_cpu),
    ]
}

pub(crate) async fn one_by_one(server: &Server, plan: Plan, ceiling: &Ceiling) -> Vec<Figure> {
    let mut claims = Vec::new();
    for _ in 0..plan.rounds {
        server.clear();
        server.queue.push_all(&jobs(plan.singles)).await.unwrap();
        claims.push(paced(server, plan.singles, drain(server, SINGLE_CLAIMERS, 1)).await);
    }
    let (claim, cpu) = summed(&claims);
    let name = format!(
        "{}: claim to ack, one by one, {SINGLE_CLAIMERS} claimers",
        server.fsync
    );
    let figure = Figure::new(name, "jobs/s", claim)
        .beside("of EVALSHA 'return 1'", claim / ceiling.script)
        .beside("server cores", cpu);
    vec![if server.fsync == "everysec" {
        figure.at_least(30_000.0)
    } else {
        figure
    }]
}

/// From the push by a producer to the claim returned by a consumer that was waiting.
pub(crate) async fn pick_up(server: &Server, plan: Plan) -> Vec<Figure> {
    server.clear();
    let producer = connect(&server.redis).await;
    let worker_queue = connect(&server.redis).await;
    let mut worker = consumer(&worker_queue, "idle");
    let (mut ways_ms, jobs) = (Vec::new(), jobs(plan.pickups));
    for job in &jobs {
        let pushed = async {
            // The consumer has gone to sleep by then.
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            let at = Instant::now();
            producer.push(job).await.unwrap();
            at
        };
        let picked = async {
            loop {
                worker.wait().await;
                if let Some(delivery) = worker.claim(1).await.unwrap().pop() {
                    return (Instant::now(), delivery);
                }
            }
        };
        let (pushed, (picked, delivery)) = tokio::join!(pushed, picked);
        ways_ms.push(picked.saturating_duration_since(pushed).as_secs_f64() * 1e3);
        delivery.ack().await.unwrap();
    }
    vec![
        Figure::new("idle pick-up, LPUSH to claim, p50", "ms", median(&ways_ms)).at_most(0.6),
        Figure::new(
            "idle pick-up, LPUSH to claim, p99",
            "ms",
            percentile(&ways_ms, 99.0),
        )
        .at_most(2.0),
    ]
}
