//! Figures of the built programs on this machine, beside the ceilings of the same run: a table on stdout, then
//! one line of JSON.
//!
//! Private Postgres (fsync on) and Redis (AOF everysec); set `TESTKIT_DIR` to a directory on a disk. Every figure
//! is the median of the rounds. Start it with `scripts/local/bench.sh`, which builds all in release mode.

mod ceilings;
mod cpu;
mod idle;
mod load;
mod monitor;
mod numbers;
mod system;

use numbers::{Figure, median, report};
use std::time::Duration;
use system::{Stores, System};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    rounds: usize,
    /// create+start pairs of one round.
    pairs: usize,
    /// Starts of one round, one after the other, whose way to the worker is measured.
    starts: usize,
    /// Scripted runs of one round, one after the other.
    runs: usize,
    /// Time of one round of a ceiling.
    ceiling: Duration,
    /// Time for which an idle worker's commands are counted.
    idle: Duration,
    /// Runs that one worker holds at the same time.
    held: usize,
}

const FULL: Plan = Plan {
    rounds: 5,
    pairs: 1_000,
    starts: 100,
    runs: 100,
    ceiling: Duration::from_secs(3),
    idle: Duration::from_secs(30),
    held: 10_000,
};
/// To see that all of it works.
const QUICK: Plan = Plan {
    rounds: 2,
    pairs: 200,
    starts: 10,
    runs: 20,
    ceiling: Duration::from_secs(1),
    idle: Duration::from_secs(6),
    held: 200,
};

/// Parts of the measurement, in their order.
const PARTS: [&str; 8] = [
    "ceilings", "start", "memory", "create", "way", "steps", "idle", "held",
];
const USAGE: &str = "usage: bench [--quick] [--only PART,PART] [--json FILE]
parts: ceilings start memory create way steps idle held";

#[tokio::main]
async fn main() {
    let mut plan = FULL;
    let mut file = None;
    let mut parts: Vec<String> = PARTS.map(str::to_owned).to_vec();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => plan = QUICK,
            "--only" => parts = only(args.next()),
            "--json" => file = Some(args.next().unwrap_or_else(|| panic!("{USAGE}"))),
            _ => panic!("{USAGE}"),
        }
    }
    let figures = measure(plan, &parts).await;
    let json = report(&figures);
    println!("{json}");
    if let Some(file) = file {
        std::fs::write(&file, format!("{json}\n")).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

fn only(list: Option<String>) -> Vec<String> {
    let parts: Vec<String> = list
        .unwrap_or_else(|| panic!("{USAGE}"))
        .split(',')
        .map(str::to_owned)
        .collect();
    let known = parts.iter().all(|part| PARTS.contains(&part.as_str()));
    assert!(known, "{USAGE}");
    parts
}

/// All figures, ceilings first: the ratios need them.
async fn measure(plan: Plan, parts: &[String]) -> Vec<Figure> {
    let wanted = |part: &str| parts.iter().any(|wanted| wanted == part);
    let stores = Stores::start().await;
    let mut figures = Vec::new();
    let mut ceilings = None;
    if wanted("ceilings") {
        ceilings = Some(ceilings::measure(&stores, plan).await);
        figures.extend(ceilings.iter().flat_map(ceilings::Ceilings::figures));
    }
    if wanted("start") {
        figures.extend(start_times(&stores, plan).await);
    }
    if wanted("memory") {
        figures.extend(idle_memory(&stores).await);
    }
    if wanted("create") {
        figures.extend(load::create_and_start(&stores, plan, ceilings.as_ref()).await);
    }
    if wanted("way") {
        figures.extend(load::way_to_the_worker(&stores, plan).await);
    }
    if wanted("steps") {
        figures.extend(load::three_steps(&stores, plan).await);
    }
    if wanted("idle") {
        figures.extend(idle::commands(&stores, plan).await);
    }
    if wanted("held") {
        figures.extend(idle::held_runs(&stores, plan).await);
    }
    figures
}

async fn start_times(stores: &Stores, plan: Plan) -> Vec<Figure> {
    let (mut api, mut worker) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let system = System::start(stores, 1).await;
        api.push(system.api_ready.as_secs_f64() * 1e3);
        worker.push(system.worker_ready[0].as_secs_f64() * 1e3);
        system.stop().await;
    }
    vec![
        Figure::new("agent-api ready after exec", "ms", median(api)).goal_at_most(300.0),
        Figure::new("agent-worker ready after exec", "ms", median(worker)).goal_at_most(300.0),
    ]
}

/// After a moment of rest, before any work.
async fn idle_memory(stores: &Stores) -> Vec<Figure> {
    let system = System::start(stores, 1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let figures = vec![
        Figure::new("agent-api idle memory", "MiB", system::rss_mib(system.api.pid())).goal_at_most(30.0),
        Figure::new(
            "agent-worker idle memory",
            "MiB",
            system::rss_mib(system.workers[0].pid()),
        )
        .goal_at_most(30.0),
    ];
    system.stop().await;
    figures
}
