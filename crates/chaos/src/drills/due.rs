//! Retries under a long `jobs:retry`: how late is the second attempt.
//!
//! A sample begins at the time its event `retry` names (`created_at` + `after_ms`) and ends at the worker's log line
//! after the next claim; the attempt's first event, after the model's turn and a commit, is told beside it. Only
//! retries that came due after the worker had nothing else to do count.

use std::time::Duration;

use serde_json::{Value, json};

use super::Place;
use super::figure::{Figures, quantile};
use super::scene::Scene;
use crate::history::now_us;

const FILLERS: usize = 9_000;
const MEASURED: usize = 1_500;
const LEAST_SAMPLES: usize = 500;
/// The measured retries come due spread over this time.
const SPREAD_MS: u64 = 150_000;
const GOAL_MS: f64 = 100.0;
const LIMIT: Duration = Duration::from_mins(15);
const RETRIED: &str = "SELECT count(*) FROM agent_task_logs WHERE metadata->>'event' = 'retry'";

const DONE: &str = "SELECT count(*) FROM agent_runs WHERE status = 'completed'";

/// Runs the drill.
pub async fn run(place: &Place) -> Figures {
    let mut figures = Figures::of("due");
    let scene = Scene::start(&place.dir, |setup| {
        let setup = setup.bin_dir(place.bin_dir.as_deref());
        setup
            .size(1, 1)
            .env("WORKER_CONCURRENCY", "16")
            .env("WORKER_RETRY_BASE_MS", SPREAD_MS.to_string())
            .env("WORKER_RETRY_CAP_MS", "20000000")
    })
    .await;
    let failing = |error: Value| {
        [
            error,
            json!({"type": "tool", "tool_name": "message", "tool_input": {"message": "on"}}),
        ]
    };
    let filler = failing(json!({"type": "error", "status": 503, "attempts": 1, "retry_after": 20_000}));
    scene.starter.begin_many(FILLERS, &filler, 0).await;
    scene.until(RETRIED, FILLERS as i64, LIMIT).await;
    let measured = failing(json!({"type": "error", "status": 503, "attempts": 1}));
    scene.starter.begin_many(MEASURED, &measured, 0).await;
    scene.until(RETRIED, (FILLERS + MEASURED) as i64, LIMIT).await;
    let idle_us = now_us();
    let waiting = scene
        .number("SELECT count(*) FROM agent_runs WHERE next_retry_at IS NOT NULL")
        .await;
    figures.told(
        "entries of jobs:retry when the worker is idle",
        waiting as f64,
        "",
    );
    scene.until(DONE, MEASURED as i64, LIMIT).await;

    Lateness::read(&scene, idle_us).await.tell(&mut figures);
    // The fillers would wait for hours.
    figures
}

struct Lateness {
    claim_ms: Vec<f64>,
    event_ms: Vec<f64>,
}

impl Lateness {
    /// Of the retries that came due after `idle_us`.
    async fn read(scene: &Scene, idle_us: i64) -> Self {
        const LATE: &str = "SELECT (extract(epoch FROM c.at::timestamptz - d.due) * 1000)::float8,
                (extract(epoch FROM n.created_at - d.due) * 1000)::float8
            FROM (SELECT run_id, seq, created_at + make_interval(secs => (metadata->>'after_ms')::float8 / 1000) AS due
                  FROM agent_task_logs WHERE metadata->>'event' = 'retry') AS d
            JOIN agent_task_logs n ON n.run_id = d.run_id AND n.seq = d.seq + 1
            JOIN unnest($2::text[], $3::text[]) AS c (run_id, at) ON c.run_id = d.run_id::text
            WHERE d.due > to_timestamp($1::float8)";
        let since = idle_us as f64 / 1e6;
        let (runs, times): (Vec<String>, Vec<String>) = second_claims(scene).into_iter().unzip();
        let rows = scene.sql().insist(LATE, &[&since, &runs, &times]).await;
        Self {
            claim_ms: rows.iter().map(|row| row.get(0)).collect(),
            event_ms: rows.iter().map(|row| row.get(1)).collect(),
        }
    }

    fn tell(&self, figures: &mut Figures) {
        figures.at_least(
            LEAST_SAMPLES,
            "retries due under an idle worker (samples)",
            self.claim_ms.len(),
        );
        figures.told("due to claimed, p50", quantile(&self.claim_ms, 0.5), "ms");
        figures.at_most(
            GOAL_MS,
            "due to claimed, p99",
            quantile(&self.claim_ms, 0.99),
            "ms",
        );
        figures.told("due to claimed, most", quantile(&self.claim_ms, 1.0), "ms");
        figures.told(
            "due to the attempt's first event, p50",
            quantile(&self.event_ms, 0.5),
            "ms",
        );
        figures.told(
            "due to the attempt's first event, p99",
            quantile(&self.event_ms, 0.99),
            "ms",
        );
        let early = self.claim_ms.iter().filter(|ms| **ms < 0.0);
        figures.none("attempts before their time", early.count());
    }
}

/// Run and time of each second claim, from the worker's log.
fn second_claims(scene: &Scene) -> Vec<(String, String)> {
    let log = scene.stage.system.workers[0].stdout();
    let claim = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        let second = line["event"] == "run claimed" && line["epoch"] == 2;
        second.then(|| Some((text("run_id")?, text("timestamp")?)))?
    };
    log.lines().filter_map(claim).collect()
}
