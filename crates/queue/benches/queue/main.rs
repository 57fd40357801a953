//! Figures of the queue alone, each beside what the same Redis can do in the same run: a table, then one line of JSON.
//!
//! Start it with `scripts/local/bench.sh queue`. Private servers; set `TESTKIT_DIR` to a directory on a disk. Every
//! figure is the median of the rounds.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints its figures, and ends where something fails"
)]

mod ceiling;
mod due;
mod figures;
mod pace;
mod support;

use figures::{Figure, report};
use support::Server;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    rounds: usize,
    /// Jobs of one round in batches.
    jobs: usize,
    /// Jobs of one round one by one.
    singles: usize,
    /// Pick-ups by an idle consumer.
    pickups: usize,
    /// Retries waiting at once.
    retries: usize,
}

const FULL: Plan = Plan {
    rounds: 5,
    jobs: 100_000,
    singles: 30_000,
    pickups: 500,
    retries: 100_000,
};
/// To see that all of it works.
const QUICK: Plan = Plan {
    rounds: 1,
    jobs: 5_000,
    singles: 2_000,
    pickups: 50,
    retries: 5_000,
};
const FSYNCS: [&str; 2] = ["everysec", "always"];
const USAGE: &str = "usage: bench.sh queue [--quick] [--json FILE]";

fn main() {
    let (mut plan, mut file) = (FULL, None);
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => plan = QUICK,
            "--json" => file = args.next(),
            _ => {
                println!("{USAGE}");
                std::process::exit(64);
            }
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let figures = runtime.block_on(measure(plan));
    let json = report(&figures);
    println!("{json}");
    if let Some(file) = file {
        std::fs::write(file, format!("{json}\n")).unwrap();
    }
}

async fn measure(plan: Plan) -> Vec<Figure> {
    let mut figures = Vec::new();
    for fsync in FSYNCS {
        let server = Server::start(fsync).await;
        let ceiling = ceiling::measure(&server, plan.rounds);
        figures.extend(ceiling.figures(fsync));
        figures.extend(pace::batches(&server, plan, &ceiling).await);
        figures.extend(pace::one_by_one(&server, plan, &ceiling).await);
    }
    let server = Server::start("everysec").await;
    figures.extend(pace::pick_up(&server, plan).await);
    figures.extend(due::lateness(&server, plan).await);
    figures.extend(due::longest_calls(&server, plan).await);
    figures
}
