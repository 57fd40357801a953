//! Run and drain.

use crate::build::build;
use crate::config::Options;
use crate::health::{self, Checks};
use crate::held::HeldRuns;
use crate::intake::{Intake, Progress};
use crate::job_processor::JobProcessor;
use crate::lease::LeaseThread;
use crate::log::with_sources;
use crate::obey::Obey;
use crate::upkeep::Upkeep;
use bootstrap::Shutdown;
use bootstrap::http::{HttpLimits, serve};
use bootstrap::settings::exit;
use domain::clock::wire_time;
use queue::{Queue, RedisOptions};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The process ends by itself when Redis answers and no claim round trip completed for this long.
const WATCHDOG_AFTER: Duration = Duration::from_secs(15);
/// How long the loop's own connection may take to come up after Redis is back.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// Why the worker does not start; decides the exit code.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Settings(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Other(String),
}

impl StartError {
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) => exit::SETTINGS,
            Self::Unavailable(_) => exit::UNAVAILABLE,
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
        let lease = match lease.start() {
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
        let background = tokio::spawn(futures::future::join3(
            upkeep.run(last.clone()),
            obey.run(last.clone()),
            serve(
                listener,
                admin,
                HttpLimits::default(),
                last.clone(),
                shutdown.hard(),
            ),
        ));
        describe(&processor).await;
        shutdown.spawn("intake", intake.run());
        shutdown.spawn("watchdog", watchdog(progress, redis, shutdown.soft()));
        drain(&shutdown, &processor, grace).await;
        last.cancel();
        lease_stop.cancel();
        let lease = tokio::task::spawn_blocking(move || lease.join().is_ok()).await;
        let ended = (background.await.is_ok(), lease.unwrap_or(false));
        tracing::info!(background = ended.0, lease = ended.1, "worker stopped");
        if let Some(crash) = shutdown.crashed() {
            tracing::error!(crash, "a background task failed");
            return exit::INTERNAL;
        }
        exit::OK
    }
}

/// Waits for the soft token, then for the jobs in hand.
async fn drain(shutdown: &Shutdown, processor: &JobProcessor, grace: Duration) {
    if !shutdown.drained(grace).await {
        // The hard token has fired: running steps are being stopped and their runs handed back.
        tracing::warn!("running steps are stopped");
        wait_for_hand_back(&processor.held).await;
    }
    debug_line(processor, "stopped").await;
    if let Err(error) = processor.queue.note_stop(&processor.worker).await {
        tracing::debug!(error = %error, "stop not noted");
    }
}

/// Steps that were stopped end within their own limits; then their runs are back in the queue.
async fn wait_for_hand_back(held: &HeldRuns) {
    let until = Instant::now() + Duration::from_secs(5);
    while !held.is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A line in `worker:debug`, which `/debug/worker-status` shows.
async fn debug_line(processor: &JobProcessor, what: &str) {
    let line = format!("{} {} {what}", wire_time(processor.clock.now()), processor.worker);
    if let Err(error) = processor.queue.debug_line(&line).await {
        tracing::debug!(error = %error, "debug line not written");
    }
}

/// Says at start what this worker is and what its stores promise.
async fn describe(processor: &JobProcessor) {
    metrics::gauge!("agent_worker_info", "worker" => processor.worker.to_string(), "version" => env!("CARGO_PKG_VERSION"))
        .set(1.0);
    tracing::info!(worker = %processor.worker, model = processor.model.describe(), sandbox = processor.sandbox.describe(),
        "worker started");
    if let Err(error) = processor.queue.note_start(processor.clock.now()).await {
        tracing::debug!(error = %error, "start not noted");
    }
    debug_line(processor, "started").await;
    match processor.queue.server_report().await {
        Ok(report) => {
            for warning in report.warnings() {
                tracing::warn!(warning, "redis settings");
            }
        }
        Err(error) => {
            tracing::warn!(error = %with_sources(&error), "redis could not be asked about its settings");
        }
    }
}

/// Ends the process when the job loop stands still although Redis answers a fresh connection: "up but not consuming" must
/// not last. While Redis is away the loop only waits, and ending would help nobody.
async fn watchdog(progress: Progress, redis: RedisOptions, soft: CancellationToken) -> Result<(), String> {
    loop {
        tokio::select! {
            () = soft.cancelled() => return Ok(()),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        if progress.unanswered_for() <= WATCHDOG_AFTER || !answers(&redis).await {
            continue;
        }
        // Redis may be back since this very moment: the loop's own connection gets the time to come up again.
        tokio::time::sleep(RECONNECT_PATIENCE).await;
        if progress.unanswered_for() > WATCHDOG_AFTER && answers(&redis).await {
            return Err(format!(
                "no claim round trip for {} s",
                progress.unanswered_for().as_secs()
            ));
        }
    }
}

/// A new connection gets an answer within a few seconds.
async fn answers(redis: &RedisOptions) -> bool {
    let Ok(queue) = Queue::connect(redis).await else {
        return false;
    };
    for _ in 0..10 {
        if queue.ping().await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    false
}
