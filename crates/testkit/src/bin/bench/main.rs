//! Figures of the built programs on this machine, beside the ceilings of the same run: a table on stdout, then
//! one line of JSON.
//!
//! Private Postgres (fsync on) and Redis (AOF everysec); set `TESTKIT_DIR` to a directory on a disk. Every figure
//! is the median of the rounds. Start it with `scripts/local/bench.sh`, which builds all in release mode.

mod ceilings;
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
}

const FULL: Plan = Plan {
    rounds: 5,
    pairs: 1_000,
    starts: 100,
    runs: 100,
    ceiling: Duration::from_secs(3),
};
/// To see that all of it works.
const QUICK: Plan = Plan {
    rounds: 2,
    pairs: 40,
    starts: 10,
    runs: 5,
    ceiling: Duration::from_secs(1),
};

const USAGE: &str = "usage: bench [--quick] [--json FILE]";

#[tokio::main]
async fn main() {
    let mut plan = FULL;
    let mut file = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => plan = QUICK,
            "--json" => file = Some(args.next().unwrap_or_else(|| panic!("{USAGE}"))),
            _ => panic!("{USAGE}"),
        }
    }
    let figures = measure(plan).await;
    let json = report(&figures);
    println!("{json}");
    if let Some(file) = file {
        std::fs::write(&file, format!("{json}\n")).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

/// All figures, ceilings first: the ratios need them.
async fn measure(plan: Plan) -> Vec<Figure> {
    let stores = Stores::start().await;
    let mut figures = Vec::new();
    let ceilings = ceilings::measure(&stores, plan).await;
    figures.extend(ceilings.figures());
    figures.extend(start_times(&stores, plan).await);
    figures.extend(idle_memory(&stores).await);
    figures.extend(load::create_and_start(&stores, plan, &ceilings).await);
    figures.extend(load::way_to_the_worker(&stores, plan).await);
    figures.extend(load::three_steps(&stores, plan).await);
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
