//! `agent-worker`.

use bootstrap::settings::{exit, parse};
use bootstrap::telemetry;
use bootstrap::traces::Traces;
use std::process::ExitCode;
use std::time::Duration;
use toolbox::{confine, relay};
use worker::config::{Cli, Command};

/// For tasks that outlive the drain.
const LAST_LIMIT: Duration = Duration::from_millis(200);
/// Bytes of stack of a thread, of which only what is used is memory: a whole drive is polled in nested frames, and
/// those of a build without optimisation are several times as large.
const STACK_BYTES: usize = 8 * 1024 * 1024;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    // A tool's process: nothing of a worker may have begun.
    match arguments.next() {
        Some(first) if first == confine::VERB => return confine::exec(arguments),
        Some(first) if first == relay::VERB => return relay::exec(arguments),
        _ => {}
    }
    telemetry::crypto();
    let cli: Cli = parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(error = %error, "no runtime");
            return ExitCode::from(exit::INTERNAL);
        }
    };
    let code = runtime.block_on(dispatch(cli));
    // What still hangs in a store or a resolver does not keep the process.
    runtime.shutdown_timeout(LAST_LIMIT);
    ExitCode::from(code)
}

async fn dispatch(cli: Cli) -> u8 {
    if let Some(Command::Check { what }) = cli.command {
        return u8::from(!worker::check::run(&cli.options, &what).await);
    }
    let redactor = cli.options.redactor();
    let scrub = Box::new(move |name: &str, text: &str| redactor.log_field(name, text));
    let (traces, fault) = match Traces::start(&cli.options.traces, "agent-worker") {
        Ok(traces) => (traces, None),
        Err(error) => (Traces::default(), Some(error)),
    };
    telemetry::init(&cli.options.worker.log_level, scrub, &traces);
    if let Some(error) = fault {
        tracing::error!(%error, "OTEL_EXPORTER_OTLP_ENDPOINT cannot be used");
        return exit::SETTINGS;
    }
    // The recorder first: a metric touched before it is lost.
    drop(telemetry::metrics());
    if let Err(fault) = domain::breakage::choose_from_environment() {
        tracing::error!(fault, "worker cannot start");
        return exit::SETTINGS;
    }
    let code = worker::app::run(cli.options).await;
    traces.finish().await;
    code
}
