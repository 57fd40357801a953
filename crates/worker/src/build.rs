//! From settings to a worker that is built and not running yet.

use crate::app::{App, StartError};
use crate::config::Options;
use crate::counting::AnyRemote;
use crate::figures;
use crate::health::Checks;
use crate::held::HeldRuns;
use crate::intake::{Intake, Progress};
use crate::job_processor::{JobProcessor, JobRules, opening_line};
use crate::kubernetes::reaper::Reaper;
use crate::kubernetes::{KubernetesSandbox, Surroundings};
use crate::lease::LeaseThread;
use crate::log::with_sources;
use crate::model::{WithRetries, scripted};
use crate::obey::Obey;
use crate::retention::Sweeper;
use crate::sandbox::AnySandbox;
use crate::upkeep::{Healing, Upkeep};
use crate::workspace::Workspaces;
use agent::ports::Model as _;
use bootstrap::Shutdown;
use bootstrap::http::bind;
use domain::ids::WorkerId;
use domain::{Clock, Ids, Redactor, SystemClock, SystemIds};
use queue::{Consumer, ConsumerOptions, Control, Queue};
use runs::{Budgets, Credits, Db, Leases, Orchestration, Outbox, Retention, RunLimits, Sweep};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tools::Tools;

/// An entry pushed by hand brings no wake-up token; an idle worker looks this often, well inside the promised second.
const HAND_PUSH_POLL: Duration = Duration::from_millis(500);

/// Between two tries to prepare the store.
const STORE_AGAIN: Duration = Duration::from_millis(300);

/// What the parts share.
struct Parts {
    options: Options,
    worker: WorkerId,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    db: Db,
    queue: Queue,
    model: WithRetries,
    tools: Tools,
    workspaces: Workspaces,
    held: HeldRuns,
    redactor: Arc<Redactor>,
}

/// Connects and checks everything; the stores are there when it returns, Redis perhaps not yet.
pub(crate) async fn build(options: Options, shutdown: Shutdown) -> Result<App, StartError> {
    let startup = Duration::from_secs(options.worker.startup_timeout_seconds);
    let addr = options.worker.worker_admin_addr.clone();
    let listener = bind(&addr, startup)
        .await
        .map_err(|error| StartError::Unavailable(format!("{addr}: {error}")))?;
    let parts = Parts::connect(options).await?;
    let worker = &parts.options.worker;
    let (sandbox, stored) = tokio::join!(
        AnySandbox::start(
            &parts.options.sandbox,
            &parts.options.kubernetes,
            parts.surroundings()
        ),
        prepare_store(&parts.db, worker.db_auto_migrate, startup),
    );
    stored?;
    let control = Control::connect(&parts.options.redis).await.map_err(settings)?;
    let kubernetes = sandbox.kubernetes().cloned();
    let processor = Arc::new(parts.processor(sandbox));
    figures::register();
    Ok(App {
        intake: Intake {
            consumer: parts.consumer()?,
            processor: processor.clone(),
            shutdown: shutdown.clone(),
            concurrency: worker.worker_concurrency,
            write_mode: worker.write_mode(),
            progress: Progress::default(),
        },
        upkeep: parts.upkeep(kubernetes.clone()),
        lease: parts.lease_thread(),
        checks: Arc::new(parts.checks(kubernetes)),
        obey: Obey {
            control,
            leases: Leases::new(parts.db.clone()),
            worker: parts.worker.clone(),
            held: parts.held.clone(),
            lease: worker.lease(),
        },
        grace: Duration::from_secs(worker.worker_shutdown_grace_seconds),
        redis: parts.options.redis.clone(),
        processor,
        listener,
        shutdown,
    })
}

fn settings(error: impl std::error::Error + 'static) -> StartError {
    StartError::Settings(with_sources(&error))
}

impl Parts {
    async fn connect(options: Options) -> Result<Self, StartError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let ids: Arc<dyn Ids> = Arc::new(SystemIds);
        Ok(Self {
            worker: worker_id(ids.as_ref()),
            db: Db::connect(&options.db).map_err(settings)?,
            queue: Queue::connect(&options.redis).await.map_err(settings)?,
            model: options.model.connect(clock.clone()).map_err(settings)?,
            tools: Tools::from_options(&options.tools).map_err(settings)?,
            workspaces: Workspaces::from_options(&options.s3),
            held: HeldRuns::default(),
            redactor: Arc::new(options.redactor()),
            clock,
            ids,
            options,
        })
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            workspaces: self.workspaces.clone(),
            store: self.options.s3.store.clone(),
            redactor: self.redactor.clone(),
            worker: self.worker.to_string(),
            ids: self.ids.clone(),
        }
    }

    fn orchestration(&self) -> Orchestration {
        let limits = RunLimits {
            run_timeout: Duration::from_secs(self.options.agent.agent_run_timeout_seconds),
            credits_enforced: self.options.agent.credits_enforced,
        };
        Orchestration::new(self.db.clone(), self.clock.clone(), self.ids.clone())
            .with_limits(limits)
            .with_redactor(self.redactor.clone())
    }

    fn consumer(&self) -> Result<Consumer, StartError> {
        let options = ConsumerOptions {
            lease: self.options.worker.lease(),
            longest_wait: Duration::from_secs(self.options.worker.worker_job_timeout).min(HAND_PUSH_POLL),
            ids: self.ids.clone(),
        };
        self.queue
            .consumer(self.worker.clone(), options)
            .map_err(settings)
    }

    fn processor(&self, sandbox: AnySandbox) -> JobProcessor {
        JobProcessor {
            worker: self.worker.clone(),
            orchestration: self.orchestration().with_opening(opening_line(&self.model)),
            credits: self
                .options
                .agent
                .credits_enforced
                .then(|| Credits::new(self.db.clone())),
            budgets: Budgets::new(self.db.clone(), self.clock.clone(), self.options.budgets.caps()),
            sweep: Sweep::new(self.db.clone(), self.clock.clone()),
            queue: self.queue.clone(),
            held: self.held.clone(),
            model: self.model.clone(),
            workspaces: self.workspaces.clone(),
            tools: self.tools.clone().with_launcher(sandbox.launcher()),
            sandbox,
            counting: AnyRemote::from_url(self.options.agent.agent_counting_tools_url.as_deref()),
            gate: self.options.agent.gate(),
            clock: self.clock.clone(),
            redactor: self.redactor.clone(),
            rules: JobRules {
                lease: self.options.worker.lease(),
                max_crashes: self.options.worker.worker_max_crashes,
                backoff: self.options.worker.backoff(),
                limits: self
                    .options
                    .agent
                    .limits(self.model.identity().0 == scripted::PROVIDER),
                on_unknown: self.options.agent.on_unknown(),
            },
        }
    }

    fn upkeep(&self, kubernetes: Option<KubernetesSandbox>) -> Upkeep {
        let sweep = Sweep::new(self.db.clone(), self.clock.clone());
        let lease = self.options.worker.lease();
        let reaper = kubernetes.map(|sandbox| Arc::new(Reaper::new(sandbox, sweep, lease)));
        Upkeep {
            worker: self.worker.clone(),
            queue: self.queue.clone(),
            orchestration: self.orchestration(),
            outbox: Outbox::new(self.db.clone()),
            sweep: Sweep::new(self.db.clone(), self.clock.clone()),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            write_mode: self.options.worker.write_mode(),
            waiting_timeout: Duration::from_secs(self.options.agent.agent_waiting_timeout_seconds),
            healing: Healing::new(&self.queue),
            retention: Sweeper {
                runs: Retention::new(self.db.clone()),
                workspaces: self.workspaces.clone(),
                rules: self.options.retention,
                clock: self.clock.clone(),
            },
            reaper,
        }
    }

    fn lease_thread(&self) -> LeaseThread {
        LeaseThread {
            worker: self.worker.clone(),
            held: self.held.clone(),
            db: self.options.db.clone(),
            redis: self.options.redis.clone(),
            lease: self.options.worker.lease(),
            every: self.options.worker.heartbeat(),
            stop: CancellationToken::new(),
        }
    }

    fn checks(&self, kubernetes: Option<KubernetesSandbox>) -> Checks {
        Checks {
            db: self.db.clone(),
            queue: self.queue.clone(),
            queue_prefix: self.options.redis.prefix().to_owned(),
            workspaces: self.workspaces.clone(),
            model: self.model.clone(),
            kubernetes,
            cached: std::sync::Mutex::default(),
        }
    }
}

/// Waits for Postgres and brings or checks the schema. A connection that is lost in between is a reason to try again.
async fn prepare_store(db: &Db, migrate: bool, patience: Duration) -> Result<(), StartError> {
    let until = Instant::now() + patience;
    loop {
        let error = match try_store(db, migrate).await {
            Err(StartError::Unavailable(error)) if Instant::now() < until => error,
            decided => return decided,
        };
        tracing::warn!(error, "postgres is not usable yet");
        tokio::time::sleep(STORE_AGAIN).await;
    }
}

async fn try_store(db: &Db, migrate: bool) -> Result<(), StartError> {
    let away = |error: &dyn std::error::Error| {
        StartError::Unavailable(format!("postgres is unavailable: {}", with_sources(error)))
    };
    if migrate {
        return match db.migrate().await {
            Ok(_) => Ok(()),
            Err(error) if error.is_unavailable() => Err(away(&error)),
            Err(error) => Err(StartError::Other(with_sources(&error))),
        };
    }
    match db.schema_is_current().await {
        Ok(true) => Ok(()),
        Ok(false) => Err(StartError::OldSchema),
        Err(error) => Err(away(&error)),
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
