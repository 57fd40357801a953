//! `chaos`: the whole suite from the command line; `scripts/ci/chaos.sh` builds and starts it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use chaos::campaign::{self, Order};
use chaos::directed::{self, Breakage};
use chaos::drills::{self, DrillArgs};
use chaos::nemesis::Plan;
use chaos::report::{self, Report};
use clap::{Parser, Subcommand, ValueEnum};

/// Injects faults into real processes under load and checks every promise from outside.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// How long load and faults last; starting and settling come on top.
    #[arg(long, default_value_t = 180)]
    seconds: u64,
    /// Of load and schedule; drawn and printed when absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs at a time.
    #[arg(long, default_value_t = 12)]
    clients: usize,
    /// Writes the line of JSON to this file as well.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where history and logs go; removed when nothing was found, unless given.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Which faults.
    #[arg(long, value_enum, default_value_t = Faults::All)]
    faults: Faults,
    /// Breaks this promise on purpose and plays the schedule aimed at it; debug builds of the programs only.
    #[arg(long, value_enum)]
    breakage: Option<Breakage>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures how the system recovers from one thing, against a goal; scripts/ci/drills.sh runs all of them.
    Drill(DrillArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Faults {
    All,
    /// All, and the clock of one worker jumps.
    Clock,
    WorkerKills,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 6)]
async fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(Command::Drill(drill)) = &args.command {
        return drills::run(drill).await;
    }
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let dir = args.dir.clone();
    let dir = dir.unwrap_or_else(|| std::env::temp_dir().join(format!("agent-chaos-{}", std::process::id())));
    let clean = match args.breakage {
        Some(breakage) => broken(breakage, &dir).await,
        None => whole(&args, seed, &dir).await,
    };
    finish(&dir, args.dir.is_some(), clean)
}

/// The schedule of a breakage; true when the checker found nothing.
async fn broken(breakage: Breakage, dir: &Path) -> bool {
    if !cfg!(debug_assertions) {
        eprintln!("--breakage: only debug builds can be broken on purpose");
        return false;
    }
    let (violations, records) = directed::play(breakage, true, dir).await;
    eprint!("{}", report::violations(&violations, &records));
    println!(
        "{}",
        serde_json::json!({"breakage": breakage.as_str(), "violations": violations})
    );
    violations.is_empty()
}

/// Load and faults; true when the checker found nothing.
async fn whole(args: &Args, seed: u64, dir: &Path) -> bool {
    let plan = match args.faults {
        Faults::All => Plan::all(),
        Faults::Clock => Plan::with_clock_steps(),
        Faults::WorkerKills => Plan::worker_kills(),
    };
    eprintln!(
        "seed {seed}, {} s, history and logs in {}",
        args.seconds,
        dir.display()
    );
    let order = Order {
        seed,
        time: Duration::from_secs(args.seconds),
        clients: args.clients,
        plan,
        dir: dir.to_owned(),
    };
    let found = campaign::run(&order).await;
    let report = Report::of(seed, order.time, &found);
    print!("{}", report.table(&found.violations));
    eprint!("{}", report::violations(&found.violations, &found.records));
    let json = report.json(&found.violations).to_string();
    println!("{json}");
    if let Some(file) = &args.json {
        std::fs::write(file, format!("{json}\n"))
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    found.violations.is_empty()
}

fn finish(dir: &Path, given: bool, clean: bool) -> ExitCode {
    if !clean {
        eprintln!("kept: {}", dir.display());
        return ExitCode::FAILURE;
    }
    if !given && let Err(error) = std::fs::remove_dir_all(dir) {
        eprintln!("{}: {error}", dir.display());
    }
    ExitCode::SUCCESS
}
