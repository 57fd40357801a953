//! Measured drills: each starts real programs, does one thing to them, measures how they recover, and compares that with a goal.
//!
//! | drill | does | goal |
//! | --- | --- | --- |
//! | [`flushall`] | `FLUSHALL` under 10,000 queued and 500 running runs | all in the right list within 30 s |
//! | [`redis_away`] | Redis away for 60 s, with and without its data | every start answered, all enqueued within 30 s |
//! | [`take_over`] | `kill -9` of workers inside a step | elsewhere: p50 8 s, p99 10 s |
//! | [`false_take_overs`] | all CPUs busy under 2,000 leased runs | no run is taken over |
//! | [`stopped`] | SIGSTOP of workers for 60 s | no stale write |
//! | [`cancel`] | stop of a deaf process group and of a silent model | p95 1 s |
//! | [`due`] | retries under 10,000 entries | p99 100 ms late, never early |
//! | [`failover`] | a replica without the newest writes takes over | nothing lost |
//!
//! Leases and beats are at their defaults (9 s, 3 s). Times are by one machine's clock.

pub mod cancel;
pub mod due;
pub mod failover;
pub mod false_take_overs;
pub mod figure;
pub mod flushall;
pub mod holders;
pub mod placement;
pub mod redis_away;
pub mod scene;
pub mod starts;
pub mod stopped;
pub mod take_over;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use figure::{Figure, Figures, table};

/// `chaos drill`.
#[derive(Debug, Clone, clap::Args)]
pub struct DrillArgs {
    /// Which drills, in this order; all when none is named.
    #[arg(value_enum)]
    names: Vec<Name>,
    /// How long `false-take-overs` keeps the CPUs busy.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Where agent-api and agent-worker are; beside this program when absent.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Writes the lines of JSON to this file as well.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where histories and logs go; removed when every goal is met, unless given.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// A drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Name {
    Flushall,
    RedisAway,
    TakeOver,
    FalseTakeOvers,
    Stopped,
    Cancel,
    Due,
    Failover,
}

impl Name {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flushall => "flushall",
            Self::RedisAway => "redis-away",
            Self::TakeOver => "take-over",
            Self::FalseTakeOvers => "false-take-overs",
            Self::Stopped => "stopped",
            Self::Cancel => "cancel",
            Self::Due => "due",
            Self::Failover => "failover",
        }
    }
}

/// Where a drill works and what it starts.
#[derive(Debug, Clone)]
pub struct Place {
    pub dir: PathBuf,
    pub bin_dir: Option<PathBuf>,
}

impl Place {
    /// Below `dir`, with the programs beside this one.
    pub fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            bin_dir: None,
        }
    }

    /// A part of the drill with a directory of its own.
    #[must_use]
    pub fn part(&self, name: &str) -> Self {
        Self {
            dir: self.dir.join(name),
            bin_dir: self.bin_dir.clone(),
        }
    }
}

/// Runs the drills one after another, prints each one's figures as they come and all of them at the end.
pub async fn run(args: &DrillArgs) -> ExitCode {
    let names = if args.names.is_empty() {
        Name::value_variants()
    } else {
        &args.names
    };
    let dir = args.dir.clone();
    let dir =
        dir.unwrap_or_else(|| std::env::temp_dir().join(format!("agent-drills-{}", std::process::id())));
    let mut figures = vec![];
    for name in names {
        eprintln!("{}", name.as_str());
        let place = Place {
            dir: dir.join(name.as_str()),
            bin_dir: args.bin_dir.clone(),
        };
        let found = one(*name, place, args.seconds).await;
        eprint!("{}", table(&found));
        figures.extend(found);
    }
    print!("{}", table(&figures));
    tell(&figures, args.json.as_deref());
    let passed = figures.iter().all(|figure| figure.pass);
    finish(&dir, args.dir.is_some(), passed)
}

async fn one(name: Name, place: Place, seconds: u64) -> Vec<Figure> {
    let seconds = std::time::Duration::from_secs(seconds);
    let drill = tokio::spawn(async move {
        match name {
            Name::Flushall => flushall::run(&place, flushall::Size::LONG).await,
            Name::RedisAway => redis_away::run(&place).await,
            Name::TakeOver => take_over::run(&place).await,
            Name::FalseTakeOvers => false_take_overs::run(&place, seconds).await,
            Name::Stopped => stopped::run(&place, stopped::Size::LONG).await,
            Name::Cancel => cancel::run(&place).await,
            Name::Due => due::run(&place).await,
            Name::Failover => failover::run(&place).await,
        }
    });
    match drill.await {
        Ok(figures) => figures.all,
        Err(error) => {
            let mut figures = Figures::of(name.as_str());
            figures.none(&format!("the drill broke off: {error}"), 1);
            figures.all
        }
    }
}

fn tell(figures: &[Figure], file: Option<&Path>) {
    let lines = figures
        .iter()
        .map(|figure| serde_json::to_string(figure).expect("a figure is JSON") + "\n");
    let lines: String = lines.collect();
    print!("{lines}");
    if let Some(file) = file {
        std::fs::write(file, lines).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

fn finish(dir: &Path, given: bool, passed: bool) -> ExitCode {
    if !passed {
        eprintln!("kept: {}", dir.display());
        return ExitCode::FAILURE;
    }
    if !given && let Err(error) = std::fs::remove_dir_all(dir) {
        eprintln!("{}: {error}", dir.display());
    }
    ExitCode::SUCCESS
}
