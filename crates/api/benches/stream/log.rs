//! Writing the log, and reading it from the start.

use crate::Plan;
use crate::figures::Figure;
use crate::support::{Load, System, lines, rss_kib};
use domain::RunId;
use futures::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::NoTls;

const RUNS: usize = 64;
/// Events per commit: what a busy step writes in its 50 ms.
const BATCH: usize = 100;
const SAMPLE: Duration = Duration::from_millis(20);

pub(crate) async fn persisted(plan: Plan) -> Vec<Figure> {
    let system = System::start().await;
    let runs = system.runs(RUNS).await;
    let commits = plan.persisted / RUNS / BATCH + 1;
    let write = async |(run, epoch): (RunId, i64)| {
        for _ in 0..commits {
            let worker = &system.worker;
            worker
                .orchestration
                .progress(run, epoch, lines(BATCH))
                .await
                .unwrap();
        }
    };
    let begun = Instant::now();
    join_all(runs.iter().map(|run| write(*run))).await;
    let rate = (commits * RUNS * BATCH) as f64 / begun.elapsed().as_secs_f64();
    let ceiling = raw(&system, commits).await;
    vec![
        Figure::new("ceiling, plain batch insert, 16 connections", "events/s", ceiling),
        Figure::new(
            format!("persisted, {RUNS} runs, {BATCH} per commit"),
            "events/s",
            rate,
        )
        .at_least(50_000.0)
        .beside("of the ceiling", rate / ceiling),
    ]
}

/// The same rows into a table of the same form, one statement per commit.
async fn raw(system: &System, commits: usize) -> f64 {
    const CONNECTIONS: usize = 16;
    let connect = async || {
        let (client, connection) = tokio_postgres::connect(&system.api.db_url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let setup = "CREATE TABLE raw_log (LIKE agent_task_logs INCLUDING ALL); CREATE TABLE raw_run (id int PRIMARY KEY, n bigint);
        INSERT INTO raw_run SELECT n, 0 FROM generate_series(0, 63) n";
    connect().await.batch_execute(setup).await.unwrap();
    let insert = "WITH run AS (UPDATE raw_run SET n = n + $2 WHERE id = $1 RETURNING n, md5(id::text)::uuid AS run_id)
        INSERT INTO raw_log (id, run_id, seq, log_type, message, metadata, created_at)
        SELECT gen_random_uuid(), run_id, n - $2 + k, 'info', $3, '{}', now() FROM run, generate_series(1, $2::bigint) k";
    let lane = async |lane: usize| {
        let client = connect().await;
        let statement = client.prepare(insert).await.unwrap();
        for number in 0..commits * RUNS / CONNECTIONS {
            let run = (lane + number * CONNECTIONS) as i32 % RUNS as i32;
            let (count, text) = (BATCH as i64, crate::support::TEXT);
            client.execute(&statement, &[&run, &count, &text]).await.unwrap();
        }
    };
    let begun = Instant::now();
    join_all((0..CONNECTIONS).map(lane)).await;
    (commits * RUNS / CONNECTIONS * CONNECTIONS * BATCH) as f64 / begun.elapsed().as_secs_f64()
}

/// The most memory a process has while something happens.
struct Peak {
    over: Arc<AtomicBool>,
    most_kib: Arc<AtomicU64>,
    before_kib: f64,
}

impl Peak {
    fn watch(pid: u32) -> Self {
        let peak = Self {
            over: Arc::default(),
            most_kib: Arc::default(),
            before_kib: rss_kib(pid),
        };
        let (over, most) = (peak.over.clone(), peak.most_kib.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(rss_kib(pid) as u64, Ordering::Relaxed);
                std::thread::sleep(SAMPLE);
            }
        });
        peak
    }

    fn growth_mib(self) -> f64 {
        self.over.store(true, Ordering::Relaxed);
        (self.most_kib.load(Ordering::Relaxed) as f64 - self.before_kib).max(0.0) / 1024.0
    }
}

pub(crate) async fn replayed(plan: Plan) -> Vec<Figure> {
    let system = System::start().await;
    let runs = system.runs(2).await;
    for ((run, epoch), events) in runs.iter().zip([plan.replay, plan.shared_replay]) {
        for _ in 0..events / 500 {
            let worker = &system.worker;
            worker
                .orchestration
                .progress(*run, *epoch, lines(500))
                .await
                .unwrap();
        }
        system.worker.complete(*run, *epoch).await;
    }
    let mut figures = vec![];
    for (run, viewers) in [(runs[0], 1), (runs[1], plan.replays_at_once)] {
        // Once before: code and pages are where they are needed.
        for round in 0..2 {
            let peak = Peak::watch(system.api.process.pid());
            let load = Load::start(system.port(), viewers, &[run], &["--from-start"]).await;
            let seen = load.end(&[]).await;
            assert_eq!(
                (&seen["faults"], &seen["incomplete"]),
                (&0.into(), &0.into()),
                "{seen}"
            );
            let growth = peak.growth_mib();
            if round == 0 {
                continue;
            }
            let events = seen["events"].as_f64().unwrap();
            let rate = events / seen["seconds_from_opening"].as_f64().unwrap();
            let name = format!("replay to {viewers} at once");
            let figure = Figure::new(name.clone(), "events/s", rate);
            figures.push(if viewers == 1 {
                figure.at_least(50_000.0)
            } else {
                figure
            });
            let goal = if viewers == 1 { 4.0 } else { 200.0 };
            figures.push(Figure::new(format!("{name}, memory growth"), "MiB", growth).at_most(goal));
        }
    }
    figures
}
