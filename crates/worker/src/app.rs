//! Build, run, drain.

use crate::config::Options;
use crate::health::{self, Checks, STALLED_AFTER};
use crate::held::HeldRuns;
use crate::intake::{Intake, Progress};
use crate::job_processor::{JobProcessor, JobRules};
use crate::lease::LeaseThread;
use crate::log::with_sources;
use crate::obey::Obey;
use crate::sandbox::AnySandbox;
use crate::upkeep::Upkeep;
use crate::workspace::Workspaces;
use bootstrap::Shutdown;
use bootstrap::http::{HttpLimits, bind, serve};
use bootstrap::settings::exit;
use domain::ids::WorkerId;
use domain::{Clock, Ids, SystemClock, SystemIds};
use queue::{ConsumerOptions, Control, Queue, RedisOptions};
use runs::{Db, Leases, Orchestration, Outbox, Restore, RunLimits, Sweep};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

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
struct App {
    processor: Arc<JobProcessor>,
    intake: Intake,
    upkeep: Upkeep,
    lease: LeaseThread,
    checks: Arc<Checks>,
    listener: TcpListener,
    shutdown: Shutdown,
    obey: Obey,
    redis: RedisOptions,
    grace: Duration,
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

async fn build(options: Options, shutdown: Shutdown) -> Result<App, StartError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ids: Arc<dyn Ids> = Arc::new(SystemIds);
    let model = options
        .model
        .connect(clock.clone())
        .map_err(|error| StartError::Settings(with_sources(&error)))?;
    let workspaces = Workspaces::from_options(&options.s3);
    let sandbox = AnySandbox::start(&options.sandbox, &workspaces).await;
    let startup = Duration::from_secs(options.worker.startup_timeout_seconds);
    let listener = bind(&options.worker.worker_admin_addr, startup)
        .await
        .map_err(|error| StartError::Unavailable(format!("{}: {error}", options.worker.worker_admin_addr)))?;
    let db = Db::connect(&options.db).map_err(|error| StartError::Settings(with_sources(&error)))?;
    prepare_store(&db, options.worker.db_auto_migrate, startup).await?;
    let queue = Queue::connect(&options.redis)
        .await
        .map_err(|error| StartError::Settings(with_sources(&error)))?;
    let worker = worker_id(ids.as_ref());
    let consumer_options = ConsumerOptions {
        lease: options.worker.lease(),
        longest_wait: Duration::from_secs(options.worker.worker_job_timeout),
        ids: ids.clone(),
    };
    let consumer = queue
        .consumer(worker.clone(), consumer_options)
        .map_err(|error| StartError::Settings(with_sources(&error)))?;
    let control = Control::connect(&options.redis)
        .await
        .map_err(|error| StartError::Settings(with_sources(&error)))?;
    let limits = RunLimits {
        run_timeout: Duration::from_secs(options.agent.agent_run_timeout_seconds),
        credits_enforced: options.agent.credits_enforced,
    };
    let orchestration = Orchestration::new(db.clone(), clock.clone(), ids.clone()).with_limits(limits);
    let held = HeldRuns::default();
    let checks = Arc::new(Checks {
        db: db.clone(),
        queue: queue.clone(),
        queue_prefix: options.redis.prefix().to_owned(),
        workspaces: workspaces.clone(),
        model: model.clone(),
        cached: std::sync::Mutex::default(),
    });
    let upkeep = Upkeep {
        worker: worker.clone(),
        queue: queue.clone(),
        orchestration: orchestration.clone(),
        outbox: Outbox::new(db.clone()),
        sweep: Sweep::new(db.clone(), clock.clone()),
        clock: clock.clone(),
        ids,
        waiting_timeout: Duration::from_secs(options.agent.agent_waiting_timeout_seconds),
    };
    let lease = LeaseThread {
        worker: worker.clone(),
        held: held.clone(),
        db: options.db.clone(),
        redis: options.redis.clone(),
        lease: options.worker.lease(),
        every: options.worker.heartbeat(),
        stop: CancellationToken::new(),
    };
    let processor = Arc::new(JobProcessor {
        worker,
        orchestration,
        restore: Restore::new(db.clone()),
        queue,
        held,
        model,
        workspaces,
        sandbox,
        clock,
        rules: JobRules {
            lease: options.worker.lease(),
            max_crashes: options.worker.worker_max_crashes,
            backoff: options.worker.backoff(),
            limits: options.agent.limits(),
        },
    });
    let intake = Intake {
        consumer,
        processor: processor.clone(),
        shutdown: shutdown.clone(),
        concurrency: options.worker.worker_concurrency,
        progress: Progress::default(),
    };
    let grace = Duration::from_secs(options.worker.worker_shutdown_grace_seconds);
    let obey = Obey {
        control,
        leases: Leases::new(db),
        worker: processor.worker.clone(),
        held: processor.held.clone(),
        lease: options.worker.lease(),
    };
    Ok(App {
        processor,
        intake,
        upkeep,
        lease,
        checks,
        listener,
        shutdown,
        obey,
        redis: options.redis,
        grace,
    })
}

/// Waits for Postgres and brings or checks the schema.
async fn prepare_store(db: &Db, migrate: bool, patience: Duration) -> Result<(), StartError> {
    let until = Instant::now() + patience;
    while let Err(error) = db.ping().await {
        if Instant::now() >= until {
            return Err(StartError::Unavailable(format!(
                "postgres is unavailable: {}",
                with_sources(&error)
            )));
        }
        tracing::warn!(error = %with_sources(&error), "postgres is not there yet");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    if migrate {
        return match db.migrate().await {
            Ok(_) => Ok(()),
            Err(error) => Err(StartError::Other(with_sources(&error))),
        };
    }
    match db.schema_is_current().await {
        Ok(true) => Ok(()),
        Ok(false) => Err(StartError::Unavailable(
            "the database schema is older than this program: run `agent-api migrate` or set DB_AUTO_MIGRATE=true"
                .to_owned(),
        )),
        Err(error) => Err(StartError::Unavailable(with_sources(&error))),
    }
}

/// Host, process id and a random part.
fn worker_id(ids: &dyn Ids) -> WorkerId {
    let host = nix::sys::utsname::uname()
        .ok()
        .and_then(|name| name.nodename().to_str().map(str::to_owned));
    let random = ids.uuid().simple().to_string();
    let tail = random.get(24..).unwrap_or_default();
    WorkerId(format!(
        "{}-{}-{tail}",
        host.as_deref().unwrap_or("host"),
        std::process::id()
    ))
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
        let upkeep_stop = CancellationToken::new();
        let admin = health::router(
            checks,
            progress.clone(),
            shutdown.soft(),
            bootstrap::telemetry::metrics(),
        );
        let admin = serve(
            listener,
            admin,
            HttpLimits::default(),
            upkeep_stop.clone(),
            shutdown.hard(),
        );
        let admin = tokio::spawn(admin);
        describe(&processor).await;
        shutdown.spawn("intake", intake.run());
        shutdown.spawn("watchdog", watchdog(progress, redis, shutdown.soft()));
        let background = tokio::spawn(futures::future::join(
            upkeep.run(upkeep_stop.clone()),
            obey.run(upkeep_stop.clone()),
        ));
        let in_time = shutdown.drained(grace).await;
        if !in_time {
            // The hard token has fired: running steps are being stopped and their runs handed back.
            tracing::warn!("grace is over, running steps were stopped");
            wait_for_hand_back(&processor.held).await;
        }
        upkeep_stop.cancel();
        lease_stop.cancel();
        if let Err(error) = processor.queue.note_stop(&processor.worker).await {
            tracing::debug!(error = %error, "stop not noted");
        }
        tokio::task::spawn_blocking(move || lease.join().is_ok())
            .await
            .unwrap_or(false);
        let ended = (background.await.is_ok(), admin.await.is_ok());
        tracing::info!(in_time, ended = ?ended, "worker stopped");
        if let Some(crash) = shutdown.crashed() {
            tracing::error!(crash, "a background task failed");
            return exit::INTERNAL;
        }
        exit::OK
    }
}

/// Steps that were stopped end within their own limits; then their runs are back in the queue.
async fn wait_for_hand_back(held: &HeldRuns) {
    let until = Instant::now() + Duration::from_secs(5);
    while !held.is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
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
    match processor.queue.server_report().await {
        Ok(report) => {
            for warning in report.warnings() {
                tracing::warn!(warning, "redis settings");
            }
        }
        Err(error) => {
            tracing::warn!(error = %with_sources(&error), "redis could not be asked about its settings")
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
        if progress.stalled_for() > STALLED_AFTER
            && answers(&redis).await
            && progress.stalled_for() > STALLED_AFTER
        {
            return Err(format!(
                "no claim round trip for {} s",
                progress.stalled_for().as_secs()
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
