//! Figures of tools as Kubernetes Jobs, through a fake cluster that really runs them: a table, then one line of JSON.
//!
//! Start it with `scripts/local/bench.sh kubernetes`. The cluster's own delays are those that were measured on a real one, and
//! again without any, which leaves what is ours.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench prints its figures, and ends where something fails"
)]

#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../../tests/kubernetes/setup.rs"]
mod setup;
#[path = "../../tests/kubernetes/system.rs"]
mod system;

use agent::ports::OutputStream;
use serde_json::{Value, json};
use setup::{Bed, Worker, shell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use system::System;
use testkit::kube::Delays;

const USAGE: &str = "usage: bench.sh kubernetes [--quick] [--json FILE]";
/// Calls that a worker follows at once.
const FOLLOWED: usize = 50;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    calls: usize,
    lines: usize,
}

struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    aim: &'static str,
}

fn main() {
    let (mut plan, mut file) = (Plan { calls: 50, lines: 30 }, None);
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => plan = Plan { calls: 5, lines: 3 },
            "--json" => file = args.next(),
            _ => {
                println!("{USAGE}");
                std::process::exit(64);
            }
        }
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let figures = runtime.block_on(measure(plan));
    for figure in &figures {
        println!(
            "{:<58} {:>10.1} {:<6} {}",
            figure.name, figure.value, figure.unit, figure.aim
        );
    }
    let all: serde_json::Map<String, Value> = figures
        .iter()
        .map(|figure| {
            (
                figure.name.to_owned(),
                json!({"value": figure.value, "unit": figure.unit}),
            )
        })
        .collect();
    let line = json!({"bench": "kubernetes", "figures": all}).to_string();
    println!("{line}");
    if let Some(file) = file {
        std::fs::write(file, line).unwrap();
    }
}

async fn measure(plan: Plan) -> Vec<Figure> {
    let mut figures = Vec::new();
    let delays = |measured| {
        move |options: &mut testkit::kube::Options| {
            options.delays = if measured { Delays::measured() } else { none() }
        }
    };
    let bed = Bed::with(delays(false)).await;
    let worker = bed.worker(&[]).await;
    let own = calls(&worker, plan.calls).await;
    figures.extend(pair("call without the cluster's delays", &own, ""));
    let before = total(&bed.api.requests());
    calls(&worker, plan.calls).await;
    let asked = total(&bed.api.requests()) - before;
    figures.push(Figure {
        name: "API calls per tool call",
        value: asked as f64 / plan.calls as f64,
        unit: "",
        aim: "aim: <= 12",
    });
    drop((worker, bed));
    let bed = Bed::with(delays(true)).await;
    let worker = bed.worker(&[]).await;
    let whole = calls(&worker, plan.calls).await;
    figures.extend(pair(
        "call with the delays of a real cluster",
        &whole,
        "aim: p50 <= 1200 ms, p95 <= 1800 ms",
    ));
    figures.extend(pair(
        "first log line after it is written",
        &first_lines(&worker, plan.lines).await,
        "aim: p95 <= 100 ms",
    ));
    drop((worker, bed));
    figures.extend(memory().await);
    figures
}

fn none() -> Delays {
    Delays {
        pod: Duration::ZERO,
        collect: Duration::ZERO,
        schedule: Duration::ZERO,
        start: Duration::ZERO,
        report: Duration::from_millis(1),
        finish: Duration::ZERO,
        second: Duration::from_secs(1),
    }
}

fn total(requests: &BTreeMap<(String, String), u64>) -> u64 {
    requests.values().sum()
}

fn pair(name: &'static str, samples: &[f64], aim: &'static str) -> [Figure; 2] {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    let figure = |share, value| Figure {
        name: Box::leak(format!("{name}, {share}").into_boxed_str()),
        value,
        unit: "ms",
        aim,
    };
    [figure("p50", at(0.5)), figure("p95", at(0.95))]
}

/// One after the other, in milliseconds each.
async fn calls(worker: &Worker, count: usize) -> Vec<f64> {
    let mut took = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        let output = worker.run(&shell("true")).await.unwrap();
        assert_eq!(output.exit_code, Some(0));
        took.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    took
}

/// From the moment the tool writes a line until it is heard, while the tool goes on.
async fn first_lines(worker: &Worker, count: usize) -> Vec<f64> {
    let mut took = Vec::new();
    for _ in 0..count {
        let call = worker.begin(&shell("sleep 2; date +%s%N; sleep 1"));
        let heard = call.heard.clone();
        let text = loop {
            let text = heard.text(OutputStream::Stdout);
            if text.ends_with('\n') {
                break text;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        let now = std::fs::metadata("/proc/self").map(|_| clock()).unwrap();
        let written: u128 = text.trim().parse().unwrap();
        took.push(now.saturating_sub(written) as f64 / 1e6);
        call.end().await.unwrap();
    }
    took
}

#[expect(
    clippy::disallowed_methods,
    reason = "compared with the clock of another process"
)]
fn clock() -> u128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_nanos()
}

/// Resident memory of a real worker: at rest, and while it follows calls.
async fn memory() -> [Figure; 2] {
    let system = System::start().await;
    let count = FOLLOWED.to_string();
    let worker = system.worker(&[("WORKER_CONCURRENCY", &count)]).await;
    let idle = resident(worker.pid());
    let mut runs = Vec::new();
    for _ in 0..FOLLOWED {
        runs.push(
            system
                .begin(&["for n in $(seq 20); do echo line $n; sleep 1; done"])
                .await,
        );
    }
    let until = Instant::now() + Duration::from_mins(1);
    while system.bed.api.all_starts().len() < FOLLOWED && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut most: f64 = 0.0;
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        most = most.max(resident(worker.pid()));
    }
    for run in &runs {
        system.wait_status(run, "completed", Duration::from_mins(2)).await;
    }
    [
        Figure {
            name: "memory of a worker at rest",
            value: idle,
            unit: "MB",
            aim: "",
        },
        Figure {
            name: "memory of a worker that follows 50 calls",
            value: most,
            unit: "MB",
            aim: "aim: <= 40 MB over rest, and in all",
        },
    ]
}

fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes / 1_024.0
}
