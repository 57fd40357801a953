//! `agent-api`: serves the API, or runs one of its commands: schema, API keys, stored histories, events, projections.

use api::{Cli, Command};
use bootstrap::settings::{exit, parse};
use std::process::ExitCode;

/// Threads of the server: enough for two cores, small when idle.
const WORKER_THREADS: usize = 2;

fn main() -> ExitCode {
    let cli: Cli = parse();
    bootstrap::telemetry::crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return ExitCode::from(exit::INTERNAL);
    };
    let code = runtime.block_on(dispatch(cli));
    runtime.shutdown_background();
    ExitCode::from(code.unwrap_or(exit::INTERNAL))
}

/// The exit code; an error only when the output itself cannot be written.
async fn dispatch(cli: Cli) -> std::io::Result<u8> {
    match cli.command {
        None => {
            let redactor = cli.options.redactor();
            let scrub = Box::new(move |name: &str, text: &str| redactor.log_field(name, text));
            bootstrap::telemetry::init(cli.options.log_filter(), scrub);
            if let Err(fault) = domain::breakage::choose_from_environment() {
                tracing::error!(fault, "api cannot start");
                return Ok(exit::SETTINGS);
            }
            Ok(api::run(cli.options).await)
        }
        Some(Command::Migrate { create_database }) => api::migrate(&cli.options.db, create_database).await,
        Some(Command::Keys { command }) => api::keys(&cli.options, command).await,
        Some(Command::History { command }) => api::commands::history(&command),
        Some(Command::Events { command }) => api::commands::events(&cli.options.db, command).await,
        Some(Command::Reproject(args)) => api::commands::reproject(&cli.options.db, &args).await,
    }
}
