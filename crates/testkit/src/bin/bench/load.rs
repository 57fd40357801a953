//! Load on the system, and how long runs take.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::{Value, json};
use testkit::Sse;

use crate::Plan;
use crate::ceilings::{CONNECTIONS, Ceilings};
use crate::cpu::Spent;
use crate::monitor;
use crate::numbers::{Figure, median, percentile};
use crate::system::{Stores, System, client};

/// Pairs that are not counted: connections to the stores come up, caches fill.
const WARM_UP: usize = 10 * CONNECTIONS;
const LIMIT: Duration = Duration::from_mins(1);

fn script(items: &[Value]) -> String {
    json!({ "script": items }).to_string()
}

fn message(text: &str) -> Value {
    json!({"type": "tool", "tool_name": "message", "tool_input": {"message": text}})
}

fn write(path: &str) -> Value {
    json!({"type": "tool", "tool_name": "file_write", "tool_input": {"filepath": path, "content": "some text"}})
}

/// How a client gets a run into the queue.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// `create`, then `start`.
    TwoRequests,
    /// `create` with `auto_start`.
    OneRequest,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::TwoRequests => "create+start",
            Self::OneRequest => "create with auto_start",
        }
    }
}

/// Runs created and started over 8 connections, no worker running.
pub(crate) async fn create_and_start(
    stores: &Stores,
    plan: Plan,
    ceilings: Option<&Ceilings>,
) -> Vec<Figure> {
    let mut figures = Vec::new();
    for form in [Form::OneRequest, Form::TwoRequests] {
        let (mut rates, mut p50, mut p99, mut spent) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..plan.rounds {
            let system = System::start(stores, 0).await;
            starts(&system, form, WARM_UP).await;
            let before = Spent::by(&system, stores).await;
            let (rate, times) = starts(&system, form, plan.pairs).await;
            spent.push(Spent::by(&system, stores).await.since(before));
            rates.push(rate);
            p50.push(percentile(times.clone(), 50.0));
            p99.push(percentile(times, 99.0));
            system.stop().await;
        }
        let name = form.name();
        let rate = median(rates);
        let figure = Figure::new(format!("{name}, 8 connections"), "/s", rate).goal_at_least(2_000.0);
        figures.extend([
            shares(figure, rate, form, ceilings),
            Figure::new(format!("{name} p50"), "ms", median(p50)),
            Figure::new(format!("{name} p99"), "ms", median(p99)).goal_at_most(15.0),
        ]);
        figures.extend(Spent::figures(name, &spent, plan.pairs));
    }
    figures
}

fn shares(figure: Figure, rate: f64, form: Form, ceilings: Option<&Ceilings>) -> Figure {
    match (ceilings, form) {
        (None, _) => figure,
        (Some(ceilings), Form::TwoRequests) => figure
            .ratio("pgbench (2 commits each)", 2.0 * rate / ceilings.pgbench)
            .ratio("axum (2 requests each)", 2.0 * rate / ceilings.axum),
        (Some(ceilings), Form::OneRequest) => figure
            .ratio("pgbench", rate / ceilings.pgbench)
            .ratio("axum", rate / ceilings.axum),
    }
}

/// Starts per second, and each one's time in ms.
async fn starts(system: &System, form: Form, number: usize) -> (f64, Vec<f64>) {
    let left = AtomicUsize::new(number);
    let prompt = script(&[message("one")]);
    let connection = || async {
        let client = client();
        let mut times = Vec::new();
        while left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
            .is_ok()
        {
            let begun = Instant::now();
            match form {
                Form::OneRequest => system.create_started(&client, &prompt).await,
                Form::TwoRequests => {
                    let run_id = system.create(&client, &prompt).await;
                    system.begin(&client, &run_id).await;
                }
            }
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        times
    };
    let begun = Instant::now();
    let times = join_all((0..CONNECTIONS).map(|_| connection())).await.concat();
    (number as f64 / begun.elapsed().as_secs_f64(), times)
}

/// From the LPUSH of a job to the first event of an idle worker, by Redis' clock.
pub(crate) async fn way_to_the_worker(stores: &Stores, plan: Plan) -> Vec<Figure> {
    let (mut claim50, mut claim99, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let system = System::start(stores, 1).await;
    let client = client();
    let prompt = script(&[message("one")]);
    runs(&system, WARM_UP / 4, &prompt).await;
    for _ in 0..plan.rounds {
        let seen = monitor::watch(&stores.redis, plan.starts).await;
        for _ in 0..plan.starts {
            let run_id = system.create(&client, &prompt).await;
            let stream = watch(&system, &run_id).await;
            system.begin(&client, &run_id).await;
            stream.collect_until_complete(LIMIT).await;
        }
        let seen = tokio::time::timeout(LIMIT, seen)
            .await
            .expect("all were seen")
            .expect("no panic");
        claim50.push(percentile(seen.claims_ms(), 50.0));
        claim99.push(percentile(seen.claims_ms(), 99.0));
        p50.push(percentile(seen.ways_ms(), 50.0));
        p99.push(percentile(seen.ways_ms(), 99.0));
    }
    system.stop().await;
    vec![
        Figure::new("LPUSH to claim p50", "ms", median(claim50)).goal_at_most(0.6),
        Figure::new("LPUSH to claim p99", "ms", median(claim99)).goal_at_most(2.0),
        Figure::new("LPUSH to first worker event p50", "ms", median(p50)),
        Figure::new("LPUSH to first worker event p99", "ms", median(p99)),
    ]
}

/// A stream that has caught up with a run that is not started.
async fn watch(system: &System, run_id: &str) -> Sse {
    let url = format!("{}/agent/logs/{run_id}/stream", system.base);
    let mut stream = Sse::connect(&url, Some(&system.token), None).await;
    while stream.next(LIMIT).await.expect("the stream is open").id != Some(2) {}
    stream
}

/// From `start` to `complete` in an open stream.
pub(crate) async fn three_steps(stores: &Stores, plan: Plan) -> Vec<Figure> {
    let messages = script(&[message("one"), message("two"), message("three")]);
    let files = script(&[write("one.txt"), write("two.txt"), write("three.txt")]);
    let mut figures = Vec::new();
    for (name, prompt, goal) in [
        ("3 message steps, start to complete", messages, 8.0),
        ("3 file_write steps, start to complete", files, 25.0),
    ] {
        let system = System::start(stores, 1).await;
        runs(&system, WARM_UP / 4, &prompt).await;
        let (mut p50, mut spent) = (Vec::new(), Vec::new());
        for _ in 0..plan.rounds {
            let before = Spent::by(&system, stores).await;
            p50.push(percentile(runs(&system, plan.runs, &prompt).await, 50.0));
            spent.push(Spent::by(&system, stores).await.since(before));
        }
        system.stop().await;
        figures.push(Figure::new(format!("{name} p50"), "ms", median(p50)).goal_at_most(goal));
        figures.extend(Spent::figures(name, &spent, plan.runs));
    }
    figures
}

/// Each run's time in ms.
async fn runs(system: &System, number: usize, prompt: &str) -> Vec<f64> {
    let client = client();
    let mut times = Vec::new();
    for _ in 0..number {
        let run_id = system.create(&client, prompt).await;
        let stream = watch(system, &run_id).await;
        let begun = Instant::now();
        let (frames, ()) = tokio::join!(
            stream.collect_until_complete(LIMIT),
            system.begin(&client, &run_id)
        );
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        let last = frames.last().expect("frames").json();
        assert_eq!(last["status"], "completed", "{last}");
    }
    times
}
