//! `agent-worker`.

use bootstrap::settings::{exit, parse};
use bootstrap::telemetry;
use std::process::ExitCode;
use worker::config::{Cli, Command};

fn main() -> ExitCode {
    telemetry::crypto();
    let cli: Cli = parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(error = %error, "no runtime");
            return ExitCode::from(exit::INTERNAL);
        }
    };
    let code = runtime.block_on(async move {
        match cli.command {
            Some(Command::Check { what }) => u8::from(!worker::check::run(&cli.options, &what).await),
            None => {
                telemetry::init(&cli.options.worker.log_level);
                // The recorder first: a metric touched before it is lost.
                drop(telemetry::metrics());
                worker::app::run(cli.options).await
            }
        }
    });
    ExitCode::from(code)
}
