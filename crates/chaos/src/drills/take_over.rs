//! `kill -9` of workers inside a running step: how long until another worker has claimed the run.
//!
//! One sample per run of a killed worker. It ends at the time of the new claim's event `executor_lost`, which the new
//! worker writes with its claim; it begins right before the signal. Workers are killed at a random moment of the beat, and
//! not before one whole beat, so that every lease is one that was renewed and not one just taken.

use std::collections::HashMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Place;
use super::figure::{Figures, quantile};
use super::holders::holders;
use super::scene::Scene;
use crate::history::now_us;
use crate::script::count;

const WORKERS: usize = 8;
/// Workers killed in one round; the others have room for their runs.
const VICTIMS: usize = 4;
const KILLS: usize = 52;
const RUNS_PER_ROUND: usize = 16;
/// Longer than a round.
const STEP_MS: u64 = 45_000;
const BEAT_MS: u64 = 3_000;
const P50_GOAL_SECONDS: f64 = 8.0;
const P99_GOAL_SECONDS: f64 = 10.0;
const LIMIT: Duration = Duration::from_secs(40);

/// Runs the drill.
pub async fn run(place: &Place) -> Figures {
    let mut figures = Figures::of("take-over");
    let scene = Scene::start(&place.dir, |setup| {
        let setup = setup.bin_dir(place.bin_dir.as_deref());
        setup
            .size(1, WORKERS)
            .env("WORKER_CONCURRENCY", "8")
            .env("POOL_SIZE", "4")
    })
    .await;
    let mut rng = StdRng::seed_from_u64(7);
    let (mut by_run, mut by_kill) = (vec![], vec![]);
    while by_kill.len() < KILLS {
        for samples in round(&scene, rng.random_range(BEAT_MS..2 * BEAT_MS)).await {
            by_kill.push(quantile(&samples, 1.0));
            by_run.extend(samples);
        }
        eprintln!("{} of {KILLS} kills", by_kill.len());
    }
    figures.told("workers killed", by_kill.len() as f64, "");
    figures.told("runs taken over (samples)", by_run.len() as f64, "");
    figures.at_most(
        P50_GOAL_SECONDS,
        "kill to claim elsewhere, p50",
        quantile(&by_run, 0.5),
        "s",
    );
    figures.at_most(
        P99_GOAL_SECONDS,
        "kill to claim elsewhere, p99",
        quantile(&by_run, 0.99),
        "s",
    );
    figures.told("kill to claim elsewhere, least", quantile(&by_run, 0.0), "s");
    figures.told("kill to claim elsewhere, most", quantile(&by_run, 1.0), "s");
    figures.told(
        "last run of each killed worker, p50",
        quantile(&by_kill, 0.5),
        "s",
    );
    scene.end().await.check(&mut figures);
    figures
}

/// Seconds of each run, by killed worker.
async fn round(scene: &Scene, wait_ms: u64) -> Vec<Vec<f64>> {
    const RUNNING: &str = "SELECT count(*) FROM agent_steps s JOIN agent_runs r ON r.id = s.run_id
        WHERE s.status = 'running' AND r.status = 'executing' AND r.lease_expires_at > clock_timestamp()";
    let items = [count("idempotent", STEP_MS, false)];
    let runs = scene.starter.begin_many(RUNS_PER_ROUND, &items, 0).await;
    scene.until(RUNNING, RUNS_PER_ROUND as i64, LIMIT).await;
    tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    let workers = &scene.stage.system.workers;
    let mut killed = vec![];
    for (index, held) in holders(scene).await.into_iter().take(VICTIMS) {
        scene.fault("worker_kill", &workers[index].name, false);
        let at_us = now_us();
        workers[index].kill();
        killed.push((at_us, held));
    }
    let wanted: usize = killed.iter().map(|(_, held)| held.len()).sum();
    let taken = taken_over(scene, &killed, wanted).await;
    for run_id in &runs {
        scene.client.act(0, "stop", run_id).await;
    }
    for worker in workers {
        worker.start();
    }
    scene.stage.system.wait_ready().await;
    let seconds = |at_us: i64, run_id: &String| (taken[run_id] - at_us) as f64 / 1e6;
    let of = |(at_us, held): &(i64, Vec<String>)| held.iter().map(|id| seconds(*at_us, id)).collect();
    killed.iter().map(of).collect()
}

/// When each of these runs was claimed again, in microseconds since 1970.
async fn taken_over(scene: &Scene, killed: &[(i64, Vec<String>)], wanted: usize) -> HashMap<String, i64> {
    let ids: Vec<String> = killed.iter().flat_map(|(_, held)| held.clone()).collect();
    let lost = format!(
        "SELECT count(*) FROM agent_task_logs WHERE metadata->>'event' = 'executor_lost'
            AND run_id = ANY('{{{}}}'::uuid[])",
        ids.join(",")
    );
    scene.until(&lost, wanted as i64, LIMIT).await;
    let when = lost.replace(
        "count(*)",
        "run_id::text, (extract(epoch FROM created_at) * 1000000)::bigint",
    );
    let rows = scene.sql().insist(&when, &[]).await;
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}
