//! `agent-api history check`: recorded histories still give the hashes they were recorded with.

use super::FAILED;
use bootstrap::settings::exit;
use clap::Subcommand;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Read when it is there; else the copy in the program, which is the same.
const DEFAULT_FILE: &str = "fixtures/history_compat/run_workflow_histories_v1.json";

/// What to do with recorded histories.
#[derive(Debug, Subcommand)]
pub enum HistoryCommand {
    /// Compute the hashes of recorded histories anew and compare.
    Check {
        /// A file of histories [default: fixtures/history_compat/run_workflow_histories_v1.json, or the copy in the program].
        #[arg(long)]
        file: Option<PathBuf>,
    },
}

/// Runs `history check`.
pub fn history(command: &HistoryCommand) -> io::Result<u8> {
    let HistoryCommand::Check { file } = command;
    let text = match read(file.as_deref()) {
        Ok(text) => text,
        Err(fault) => {
            writeln!(io::stderr(), "history check failed: {fault}")?;
            return Ok(FAILED);
        }
    };
    let mut out = io::stdout().lock();
    match runs::history::check(&text) {
        Ok(fixtures) => {
            writeln!(out, "history check passed ({fixtures} fixtures)")?;
            Ok(exit::OK)
        }
        Err(differences) => {
            writeln!(out, "history check failed:")?;
            for difference in differences {
                writeln!(out, "  - {difference}")?;
            }
            Ok(FAILED)
        }
    }
}

fn read(file: Option<&Path>) -> Result<String, String> {
    let path = match file {
        Some(path) => path,
        None if Path::new(DEFAULT_FILE).is_file() => Path::new(DEFAULT_FILE),
        None => return Ok(runs::history::BUILT_IN.to_owned()),
    };
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}
