//! Figures of the streams, beside what a bare handler and plain Postgres can do in the same run: a table, then one line of
//! JSON. Start it with `scripts/local/bench.sh stream`.
//!
//! The program under measurement, its stores and the load are processes of their own, all on this machine: load average
//! and number of CPUs are told with the figures. Latencies are from the commit to the client.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints its figures, and ends where something fails"
)]
#![expect(dead_code, reason = "the harness of the tests has more than is used here")]

mod bare;
mod drills;
#[path = "../../../queue/benches/queue/figures.rs"]
mod figures;
mod flow;
#[path = "../../tests/it/harness.rs"]
mod harness;
mod idle;
mod load;
mod log;
mod support;

use figures::{Figure, report};
use std::time::Duration;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// One measurement of a flow.
    flow: Duration,
    idle: usize,
    replay: i64,
    replays_at_once: usize,
    /// Events of the run that is replayed many times at once.
    shared_replay: i64,
    persisted: usize,
}

const FULL: Plan = Plan {
    flow: Duration::from_secs(10),
    idle: 8_000,
    replay: 100_000,
    replays_at_once: 200,
    shared_replay: 5_000,
    persisted: 200_000,
};
/// To see that all of it works.
const QUICK: Plan = Plan {
    flow: Duration::from_secs(2),
    idle: 500,
    replay: 5_000,
    replays_at_once: 20,
    shared_replay: 1_000,
    persisted: 20_000,
};
const USAGE: &str =
    "usage: bench.sh stream [--quick] [--json FILE] [--only PART]...   (lag rate idle persist replay)
       streams.sh drill NAME...   (redis-cut postgres-cut churn)";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match &words[..] {
        ["--load", rest @ ..] => runtime.block_on(load::run(rest)),
        ["--bare", port] => runtime.block_on(bare::serve(port.parse().unwrap())),
        ["drill", names @ ..] => tell(&runtime.block_on(drills::run(names)), None),
        rest => {
            let (plan, file, only) = parse(rest);
            tell(&runtime.block_on(measure(plan, &only)), file);
        }
    }
}

fn parse<'a>(words: &[&'a str]) -> (Plan, Option<&'a str>, Vec<&'a str>) {
    let (mut plan, mut file, mut only) = (FULL, None, vec![]);
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        match word {
            "--quick" => plan = QUICK,
            "--json" => file = words.next(),
            "--only" => only.extend(words.next()),
            _ => {
                println!("{USAGE}");
                std::process::exit(64);
            }
        }
    }
    (plan, file, only)
}

fn tell(figures: &[Figure], file: Option<&str>) {
    let json = report(figures);
    println!("{json}");
    if let Some(file) = file {
        std::fs::write(file, format!("{json}\n")).unwrap();
    }
}

async fn measure(plan: Plan, only: &[&str]) -> Vec<Figure> {
    let wanted = |part: &str| only.is_empty() || only.contains(&part);
    let mut figures = vec![support::load_average("at the start")];
    if wanted("lag") {
        figures.extend(flow::lag(plan).await);
    }
    if wanted("rate") {
        figures.extend(flow::rate(plan).await);
    }
    if wanted("idle") {
        figures.extend(idle::connections(plan).await);
    }
    if wanted("persist") {
        figures.extend(log::persisted(plan).await);
    }
    if wanted("replay") {
        figures.extend(log::replayed(plan).await);
    }
    figures.push(support::load_average("at the end"));
    figures
}
