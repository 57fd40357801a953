//! `agent-api`: serves the API, or carries out one command.

use std::process::ExitCode;

fn main() -> ExitCode {
    api::program::main(&[])
}
