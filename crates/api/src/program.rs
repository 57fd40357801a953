//! The program behind `agent-api` and `openagents-runtime-service`: serves, or carries out one command.

use crate::config::{Cli, Command, ContractCommand, Options};
use crate::smoke::Credentials;
use bootstrap::settings::{exit, parse_with};
use bootstrap::traces::Traces;
use std::process::ExitCode;

/// Threads of the server: enough for two cores, small when idle.
const WORKER_THREADS: usize = 2;

/// Reads the command line and does what it says. `fixed` settings win over the environment's.
pub fn main(fixed: &[(&str, &str)]) -> ExitCode {
    let cli: Cli = parse_with(fixed);
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

async fn serve(options: Options) -> u8 {
    let redactor = options.redactor();
    let scrub = Box::new(move |name: &str, text: &str| redactor.log_field(name, text));
    let (traces, fault) = match Traces::start(&options.traces, "agent-api") {
        Ok(traces) => (traces, None),
        Err(error) => (Traces::default(), Some(error)),
    };
    bootstrap::telemetry::init(options.log_filter(), scrub, &traces);
    if let Some(error) = fault {
        tracing::error!(%error, "OTEL_EXPORTER_OTLP_ENDPOINT cannot be used");
        return exit::SETTINGS;
    }
    if let Err(fault) = domain::breakage::choose_from_environment() {
        tracing::error!(fault, "api cannot start");
        return exit::SETTINGS;
    }
    let code = crate::run(options).await;
    traces.finish().await;
    code
}

/// The exit code; an error only when the output itself cannot be written.
async fn dispatch(cli: Cli) -> std::io::Result<u8> {
    match cli.command {
        None => Ok(serve(cli.options).await),
        Some(Command::Migrate { create_database }) => crate::migrate(&cli.options.db, create_database).await,
        Some(Command::Contract {
            command: ContractCommand::Check { openapi, markdown },
        }) => crate::contract::check(&openapi, &markdown),
        Some(Command::Smoke {
            base_url,
            bearer_token,
        }) => {
            let secret = cli.options.runtime.runtime_signature_secret;
            crate::smoke::run(
                &base_url.unwrap_or_default(),
                Credentials::new(secret, bearer_token),
            )
            .await
        }
        Some(Command::Keys { command }) => crate::keys(&cli.options, command).await,
        Some(Command::History { command }) => crate::commands::history(&command),
        Some(Command::Events { command }) => crate::commands::events(&cli.options.db, command).await,
        Some(Command::Reproject(args)) => crate::commands::reproject(&cli.options.db, &args).await,
    }
}
