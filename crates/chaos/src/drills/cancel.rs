//! A run is stopped over one API while its worker waits for a process group that ignores SIGTERM, or for a model that
//! says nothing: how long until the processes are gone, or the request is dropped.

use std::time::Duration;

use serde_json::json;
use testkit::{Answer, ModelServer};
use tokio::time::Instant;

use super::Place;
use super::figure::{Figures, quantile};
use super::scene::Scene;

const TRIALS: usize = 40;
const P95_GOAL_SECONDS: f64 = 1.0;
const LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Both forms.
pub async fn run(place: &Place) -> Figures {
    let mut figures = Figures::of("cancel");
    shell(&place.part("shell"), &mut figures).await;
    model(&place.part("model"), &mut figures).await;
    figures
}

async fn shell(place: &Place, figures: &mut Figures) {
    let scene = Scene::start(&place.dir, |setup| {
        setup.bin_dir(place.bin_dir.as_deref()).size(2, 1)
    })
    .await;
    let mut samples = vec![];
    for trial in 0..TRIALS {
        // Nobody else on this machine sleeps that long.
        let mark = format!("600.{:06}{trial:03}", std::process::id() % 1_000_000);
        let command = format!("trap '' TERM; sleep {mark} & sleep {mark}; wait");
        let call = json!({"type": "tool", "tool_name": "shell", "tool_input": {"command": command}});
        let run_id = scene.starter.begin(&[call], 0).await;
        // Both sleeps, not only the shell that names them.
        if !met(|| sleeping(&mark) == 2).await {
            eprintln!("the shell tool does not run here: {}", why(&scene, &run_id).await);
            break;
        }
        samples.push(stop(&scene, &run_id, trial, || named(&mark) == 0).await);
    }
    figures.at_least(TRIALS, "stopped shells that ignore SIGTERM", samples.len());
    tell(figures, "stop to the last process gone", &samples);
    scene.end().await.check(figures);
}

async fn model(place: &Place, figures: &mut Figures) {
    let server = ModelServer::start().await;
    server.otherwise(Answer::hang());
    let url = server.openai_url();
    let scene = Scene::start(&place.dir, |setup| {
        let setup = setup.bin_dir(place.bin_dir.as_deref()).size(2, 1);
        setup
            .env("LLM_PRIMARY_PROVIDER", "openai")
            .env("OPENAI_BASE_URL", url)
            .env("OPENAI_API_KEY", "not-a-key")
    })
    .await;
    let mut samples = vec![];
    for trial in 0..TRIALS {
        let run_id = scene.starter.begin(&[], 0).await;
        assert!(
            met(|| server.open_requests() == 1).await,
            "the model is not asked"
        );
        samples.push(stop(&scene, &run_id, trial, || server.open_requests() == 0).await);
    }
    figures.at_least(TRIALS, "stopped calls of a silent model", samples.len());
    tell(figures, "stop to the request dropped", &samples);
    scene.end().await.check(figures);
    drop(server.violations());
}

fn tell(figures: &mut Figures, what: &str, samples: &[f64]) {
    figures.told(&format!("{what}, p50"), quantile(samples, 0.5), "s");
    figures.at_most(
        P95_GOAL_SECONDS,
        &format!("{what}, p95"),
        quantile(samples, 0.95),
        "s",
    );
    figures.told(&format!("{what}, most"), quantile(samples, 1.0), "s");
}

/// Stops the run at the API that did not start it. Seconds until `gone`.
async fn stop(scene: &Scene, run_id: &str, trial: usize, gone: impl Fn() -> bool) -> f64 {
    let begun = Instant::now();
    // Its answer is part of the time, but nothing waits for it.
    let (answer, over) = tokio::join!(scene.client.act(trial + 1, "stop", run_id), async {
        met(gone).await.then(|| begun.elapsed().as_secs_f64())
    });
    assert!(answer.is_ok(), "{answer:?}");
    over.unwrap_or(f64::INFINITY)
}

async fn met(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    false
}

/// Command lines of all processes of this machine that hold `mark`, the words parted by spaces.
fn command_lines(mark: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = all.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    let words = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    words.filter(|line| line.contains(mark)).collect()
}

fn named(mark: &str) -> usize {
    command_lines(mark).len()
}

fn sleeping(mark: &str) -> usize {
    let lines = command_lines(mark);
    lines.iter().filter(|line| line.starts_with("sleep ")).count()
}

async fn why(scene: &Scene, run_id: &str) -> String {
    let sql = "SELECT coalesce(string_agg(coalesce(error_message, status), '; '), 'no step') FROM agent_steps
        WHERE run_id = $1::text::uuid";
    scene.sql().insist(sql, &[&run_id]).await[0].get(0)
}
