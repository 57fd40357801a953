//! Subcommands that check or mend what is stored. A verdict is written to stdout, good or bad; what keeps a command
//! from reaching one is written to stderr.

mod events;
mod history;
mod reproject;

pub use events::{EventsCommand, events};
pub use history::{HistoryCommand, history};
pub use reproject::{ReprojectArgs, reproject};

use crate::error::chain;
use bootstrap::settings::exit;
use runs::{Db, DbOptions, StoreError};
use std::io::{self, Write as _};

/// Exit code of a command that was understood and did not succeed.
const FAILED: u8 = 1;

/// Writes the fault and gives the exit code that goes with it.
fn failed(error: &StoreError) -> io::Result<u8> {
    writeln!(io::stderr(), "{}", chain(error))?;
    Ok(match error {
        StoreError::Unavailable(_) => exit::UNAVAILABLE,
        StoreError::Database(_) => FAILED,
    })
}

/// The store, or the exit code when its settings are wrong.
fn store(options: &DbOptions) -> io::Result<Result<Db, u8>> {
    match Db::connect(options) {
        Ok(db) => Ok(Ok(db)),
        Err(error) => {
            writeln!(io::stderr(), "{}", chain(&error))?;
            Ok(Err(exit::SETTINGS))
        }
    }
}
