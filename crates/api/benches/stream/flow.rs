//! Live events: lag from commit to client, and how many can be delivered.

use crate::Plan;
use crate::figures::Figure;
use crate::harness::client;
use crate::support::{Load, System, cpu_s, lines, now_us};
use domain::{Ids as _, RunId, SystemIds};
use futures::future::join_all;
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use testkit::{eventually, free_port};

const SOON: Duration = Duration::from_secs(20);

/// Events per second of one run, in commits of `batch`.
#[derive(Debug, Clone, Copy)]
struct Pace {
    per_s: u32,
    batch: usize,
}

impl Pace {
    fn interval(self) -> Duration {
        Duration::from_secs(1) * self.batch as u32 / self.per_s
    }
}

/// Writes at this pace, then completes the run; when each seq was committed.
async fn write(
    system: &System,
    (run, epoch): (RunId, i64),
    pace: Pace,
    time: Duration,
) -> Vec<(RunId, i64, u64)> {
    let mut commits = vec![];
    let mut tick = tokio::time::interval(pace.interval());
    let begun = Instant::now();
    while begun.elapsed() < time {
        tick.tick().await;
        let done = system
            .worker
            .orchestration
            .progress(run, epoch, lines(pace.batch))
            .await
            .unwrap();
        let at = now_us();
        commits.extend(done.events.iter().map(|event| (run, event.seq, at)));
        system.worker.queue.publish(&done.events).await.unwrap();
    }
    system.worker.complete(run, epoch).await;
    commits
}

async fn flow(system: &System, (runs, viewers): (usize, usize), pace: Pace, time: Duration) -> (Value, f64) {
    let runs = system.runs(runs).await;
    let load = Load::start(system.port(), viewers, &runs, &[]).await;
    let cpu = cpu_s(system.api.process.pid());
    let commits = join_all(runs.iter().map(|run| write(system, *run, pace, time))).await;
    let commits: Vec<_> = commits.into_iter().flatten().collect();
    let seen = load.end(&commits).await;
    let expected = (commits.len() + 2 * runs.len()) * viewers / runs.len();
    assert_eq!(seen["faults"], 0, "{seen}");
    assert_eq!(seen["incomplete"], 0, "{seen}");
    assert_eq!(seen["events"], expected as u64, "nothing is lost: {seen}");
    (seen, cpu_s(system.api.process.pid()) - cpu)
}

pub(crate) async fn lag(plan: Plan) -> Vec<Figure> {
    let system = System::start().await;
    let mut figures = vec![];
    for viewers in [1, 100, 1_000] {
        let pace = Pace { per_s: 50, batch: 1 };
        let (seen, cpu) = flow(&system, (1, viewers), pace, plan.flow).await;
        let name = |what: &str| format!("commit to client, {viewers} viewers × 50/s, {what}");
        let of = |key: &str| seen[key].as_f64().unwrap();
        figures.push(Figure::new(name("p50"), "ms", of("p50_ms")));
        let p99 = Figure::new(name("p99"), "ms", of("p99_ms")).beside("longest ms", of("max_ms"));
        figures.push(
            p99.at_most(10.0)
                .beside("api cores", cpu / plan.flow.as_secs_f64()),
        );
    }
    figures
}

/// 10 runs of 100 viewers each, faster and faster; the highest rate that arrives in the time in which it is written.
pub(crate) async fn rate(plan: Plan) -> Vec<Figure> {
    let ceiling = bare(plan).await;
    let system = System::start().await;
    let (mut best, mut best_cpu) = (0.0_f64, 0.0);
    for per_s in [100, 150, 200, 300, 400] {
        let pace = Pace { per_s, batch: 10 };
        let (seen, cpu) = flow(&system, (10, 1_000), pace, plan.flow).await;
        let rate = seen["events"].as_f64().unwrap() / seen["seconds"].as_f64().unwrap();
        eprintln!(
            "offered {per_s} × 1,000: {rate:.0}/s, p99 {} ms, api {cpu:.1} s",
            seen["p99_ms"]
        );
        if rate > best {
            (best, best_cpu) = (rate, cpu / seen["seconds"].as_f64().unwrap());
        }
    }
    vec![
        Figure::new(
            "ceiling, plain axum over a broadcast, 10 runs × 100 viewers",
            "/s",
            ceiling,
        ),
        Figure::new("deliveries, 10 runs × 100 viewers", "/s", best)
            .at_least(170_000.0)
            .beside("of the ceiling", best / ceiling)
            .beside("api cores", best_cpu),
    ]
}

async fn bare(plan: Plan) -> f64 {
    let port = free_port();
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--bare", &port.to_string()])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let base = format!("http://127.0.0.1:{port}");
    let client = client();
    eventually(SOON, async || client.get(&base).send().await.is_ok()).await;
    let mut best = 0.0_f64;
    for per_s in [100, 150, 200, 300, 400] {
        let pace = Pace { per_s, batch: 10 };
        let runs: Vec<(RunId, i64)> = (0..10).map(|_| (RunId(SystemIds.uuid()), 0)).collect();
        let load = Load::start(port, 1_000, &runs, &[]).await;
        let publish = async |run: RunId| {
            let (begun, mut from) = (Instant::now(), 1);
            let mut tick = tokio::time::interval(pace.interval());
            loop {
                tick.tick().await;
                let last = i32::from(begun.elapsed() >= plan.flow);
                let query = format!("from={from}&count={}&last={last}", pace.batch);
                client
                    .post(format!("{base}/publish/{run}?{query}"))
                    .send()
                    .await
                    .unwrap();
                from += pace.batch as i64;
                if last == 1 {
                    return;
                }
            }
        };
        join_all(runs.iter().map(|(run, _)| publish(*run))).await;
        // Plain axum has no end of a stream: the load leaves when it has seen `complete`.
        let seen = load.end(&[]).await;
        let rate = seen["events"].as_f64().unwrap() / seen["seconds"].as_f64().unwrap();
        eprintln!("plain axum, offered {per_s} × 1,000: {rate:.0}/s");
        best = best.max(rate);
    }
    server.kill().unwrap();
    server.wait().unwrap();
    best
}
