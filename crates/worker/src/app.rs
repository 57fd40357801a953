//! Run and drain.

use crate::build::build;
use crate::config::Options;
use crate::health::{self, Checks};
use crate::held::HeldRuns;
use crate::intake::Intake;
use crate::job_processor::JobProcessor;
use crate::lease::LeaseThread;
use crate::obey::Obey;
use crate::upkeep::Upkeep;
use crate::watchdog::{self, Watchdog};
use bootstrap::Shutdown;
use bootstrap::http::{HttpLimits, serve};
use bootstrap::settings::exit;
use domain::clock::wire_time;
use queue::RedisOptions;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Bounds of the end, each counted after the one before; together below 5 s, also while a store is away.
/// Stopped steps end and their runs go back within this time.
const HAND_BACK_LIMIT: Duration = Duration::from_secs(3);
/// The last notes in Redis.
const FAREWELL_LIMIT: Duration = Duration::from_millis(700);
/// Upkeep and listeners, then the lease thread.
const BACKGROUND_LIMIT: Duration = Duration::from_millis(400);

/// Why the worker does not start; decides the exit code.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Settings(String),
    #[error("{0}")]
    Unavailable(String),
    #[error(
        "the database schema is older than this program: run `agent-api migrate` or set DB_AUTO_MIGRATE=true"
    )]
    OldSchema,
    #[error("{0}")]
    Other(String),
}

impl StartError {
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) => exit::SETTINGS,
            Self::Unavailable(_) | Self::OldSchema => exit::UNAVAILABLE,
            Self::Other(_) => exit::INTERNAL,
        }
    }
}

/// A worker that is built and not running yet.
pub(crate) struct App {
    pub(crate) processor: Arc<JobProcessor>,
    pub(crate) intake: Intake,
    pub(crate) upkeep: Upkeep,
    pub(crate) lease: LeaseThread,
    pub(crate) checks: Arc<Checks>,
    pub(crate) listener: TcpListener,
    pub(crate) shutdown: Shutdown,
    pub(crate) obey: Obey,
    pub(crate) redis: RedisOptions,
    pub(crate) grace: Duration,
}

/// Runs the worker until a signal; gives the exit code.
pub async fn run(options: Options) -> u8 {
    let shutdown = Shutdown::new();
    if let Err(error) = shutdown.on_signals() {
        tracing::error!(error = %error, "signals cannot be watched");
        return exit::INTERNAL;
    }
    let stopped = shutdown.soft();
    let built = tokio::select! {
        built = build(options, shutdown) => built,
        () = stopped.cancelled() => return exit::OK,
    };
    match built {
        Ok(app) => app.run().await,
        Err(error) => {
            tracing::error!(error = %error, "worker cannot start");
            error.exit_code()
        }
    }
}

impl App {
    async fn run(self) -> u8 {
        let Self {
            processor,
            intake,
            upkeep,
            lease,
            checks,
            listener,
            shutdown,
            obey,
            redis,
            grace,
        } = self;
        let progress = intake.progress.clone();
        let lease_stop = lease.stop.clone();
        let lease = match lease.start(progress.clone()) {
            Ok(thread) => thread,
            Err(error) => {
                tracing::error!(error = %error, "lease thread not started");
                return exit::INTERNAL;
            }
        };
        // Upkeep, signals and probes go on until the last job has settled.
        let last = CancellationToken::new();
        let admin = health::router(
            checks,
            progress.clone(),
            shutdown.soft(),
            bootstrap::telemetry::metrics(),
        );
        let limits = HttpLimits::default();
        let background = tokio::spawn(futures::future::join4(
            upkeep.run(last.clone()),
            obey.run(last.clone()),
            watchdog::beat(progress.clone(), last.clone()),
            serve(listener, admin, limits, last.clone(), shutdown.hard()),
        ));
        let described = describe(processor.clone());
        tokio::spawn(shutdown.soft().run_until_cancelled_owned(described));
        let watchdog = Watchdog {
            progress,
            redis,
            worker: processor.worker.clone(),
        };
        let queue = processor.queue.clone();
        let unfit = shutdown.begin_when_unfit(async move { queue.vet_server().await });
        shutdown.spawn("intake", intake.run());
        shutdown.spawn("watchdog", watchdog.run(shutdown.soft()));
        drain(&shutdown, &processor, grace).await;
        last.cancel();
        lease_stop.cancel();
        let lease = tokio::task::spawn_blocking(move || lease.join().is_ok());
        let background = timeout(BACKGROUND_LIMIT, background).await;
        let lease = timeout(BACKGROUND_LIMIT, lease).await;
        let ended = (matches!(background, Ok(Ok(_))), matches!(lease, Ok(Ok(true))));
        tracing::info!(background = ended.0, lease = ended.1, "worker stopped");
        exit_code(&shutdown, &unfit)
    }
}

fn exit_code(shutdown: &Shutdown, unfit: &CancellationToken) -> u8 {
    if unfit.is_cancelled() {
        return exit::SETTINGS;
    }
    if let Some(crash) = shutdown.crashed() {
        tracing::error!(crash, "a background task failed");
        return exit::INTERNAL;
    }
    exit::OK
}

/// Waits for the soft token, then for the jobs in hand.
async fn drain(shutdown: &Shutdown, processor: &JobProcessor, grace: Duration) {
    if !shutdown.drained(grace).await {
        // The hard token has fired: running steps are being stopped and their runs handed back.
        tracing::warn!("running steps are stopped");
        wait_for_hand_back(&processor.held).await;
    }
    let farewell = async {
        debug_line(processor, "stopped").await;
        if let Err(error) = processor.queue.note_stop(&processor.worker).await {
            tracing::debug!(error = %error, "stop not noted");
        }
    };
    if timeout(FAREWELL_LIMIT, farewell).await.is_err() {
        tracing::debug!("stop not noted: redis does not answer");
    }
}

/// Steps that were stopped end within their own limits; then their runs are back in the queue. What a store that is away
/// does not take back is taken over when its lease runs out.
async fn wait_for_hand_back(held: &HeldRuns) {
    let until = Instant::now() + HAND_BACK_LIMIT;
    while !held.is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if !held.is_empty() {
        tracing::warn!(runs = held.len(), "runs not handed back, their leases run out");
    }
}

/// A line in `worker:debug`, which `/debug/worker-status` shows.
async fn debug_line(processor: &JobProcessor, what: &str) {
    let line = format!("{} {} {what}", wire_time(processor.clock.now()), processor.worker);
    if let Err(error) = processor.queue.debug_line(&line).await {
        tracing::debug!(error = %error, "debug line not written");
    }
}

/// Says at start what this worker is.
async fn describe(processor: Arc<JobProcessor>) {
    metrics::gauge!("agent_worker_info", "worker" => processor.worker.to_string(), "version" => env!("CARGO_PKG_VERSION"))
        .set(1.0);
    tracing::info!(worker = %processor.worker, model = processor.model.describe(), sandbox = processor.sandbox.describe(),
        "worker started");
    if let Err(error) = processor.queue.note_start(processor.clock.now()).await {
        tracing::debug!(error = %error, "start not noted");
    }
    debug_line(&processor, "started").await;
}
