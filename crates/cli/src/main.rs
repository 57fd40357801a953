//! The `agentctl` program.

use clap::Parser as _;
use cli::args::{Cli, Command, run_first};
use cli::commands;
use cli::console::Console;
use cli::failure::{Code, Failure};
use std::process::ExitCode;

fn main() -> ExitCode {
    bootstrap::telemetry::crypto();
    let cli = Cli::parse_from(run_first(std::env::args_os().collect()));
    let console = Console::new();
    let code = match run(console, cli) {
        Ok(code) => code,
        Err(failure) => {
            console.failure(&failure);
            failure.code
        }
    };
    ExitCode::from(code as u8)
}

/// One thread is enough for a client, and a must for the supervisor (see `cli::up::guard`).
fn run(console: Console, cli: Cli) -> Result<Code, Failure> {
    if let Command::Guard(args) = &cli.command {
        return Err(cli::up::guard::exec(args));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(commands::dispatch(console, cli))
}
