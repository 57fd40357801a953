//! `agent-api events verify`: the hash chain of stored events.

use super::{FAILED, failed, store};
use bootstrap::settings::exit;
use clap::{Args, Subcommand};
use domain::RunId;
use runs::runtime_runs::{run_ids, verify};
use runs::{ChainReport, Db, DbOptions, StoreError};
use std::io::{self, Write as _};

/// Run ids read at once.
const PAGE: i64 = 500;

/// What to do with stored events.
#[derive(Debug, Subcommand)]
pub enum EventsCommand {
    /// Follow the hash chain of stored events to the head its run keeps.
    Verify(Which),
}

/// Which runs: one or all.
#[derive(Debug, Clone, Copy, Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// This run.
    #[arg(long, value_name = "ID")]
    run_id: Option<RunId>,
    /// Every run.
    #[arg(long)]
    all: bool,
}

/// What was verified.
#[derive(Default)]
struct Tally {
    runs: u64,
    events: u64,
    broken: u64,
}

/// Runs `events verify`; every broken run is named, not only the first.
pub async fn events(options: &DbOptions, command: EventsCommand) -> io::Result<u8> {
    let EventsCommand::Verify(which) = command;
    let db = match store(options)? {
        Ok(db) => db,
        Err(code) => return Ok(code),
    };
    let mut tally = Tally::default();
    let verified = match which.run_id {
        Some(run_id) => one(&db, run_id, &mut tally).await,
        None => all(&db, &mut tally).await,
    };
    match verified {
        Err(Fault::Store(error)) => failed(&error),
        Err(Fault::Output(error)) => Err(error),
        Err(Fault::Unknown(run_id)) => {
            writeln!(io::stderr(), "no such run: {run_id}")?;
            Ok(FAILED)
        }
        Ok(()) if tally.broken > 0 => Ok(FAILED),
        Ok(()) => {
            let Tally { runs, events, .. } = tally;
            writeln!(io::stdout(), "event chain verified: {runs} runs, {events} events")?;
            Ok(exit::OK)
        }
    }
}

/// What ends a verification early.
enum Fault {
    Store(StoreError),
    Output(io::Error),
    Unknown(RunId),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

async fn all(db: &Db, tally: &mut Tally) -> Result<(), Fault> {
    let mut after = None;
    loop {
        let ids = run_ids(db, after, PAGE).await?;
        let Some(last) = ids.last() else { return Ok(()) };
        after = Some(*last);
        for run_id in ids {
            one(db, run_id, tally).await?;
        }
    }
}

async fn one(db: &Db, run_id: RunId, tally: &mut Tally) -> Result<(), Fault> {
    match verify(db, run_id).await? {
        None => return Err(Fault::Unknown(run_id)),
        Some(ChainReport::Intact { events }) => {
            tally.runs += 1;
            tally.events += events;
        }
        Some(ChainReport::Broken { seq, reason }) => {
            tally.broken += 1;
            writeln!(
                io::stdout(),
                "event chain broken: run={run_id} seq={seq} {reason}"
            )?;
        }
    }
    Ok(())
}
