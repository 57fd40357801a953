//! Settings of `agent-worker`.

mod agent_options;

pub use agent_options::{AgentOptions, BudgetOptions, OnUnknownChoice, Watch};

use crate::backoff::Backoff;
use crate::kubernetes::KubernetesOptions;
use crate::log::with_sources;
use crate::model::{ModelOptions, SetupError};
use crate::retention::RetentionOptions;
use crate::sandbox::{SandboxOptions, ToolExecutor};
use crate::workspace::S3Options;
use bootstrap::{Faults, Validate};
use clap::{Args, Parser, Subcommand, ValueEnum};
use domain::redact::Redactor;
use domain::{SystemClock, WriteMode};
use queue::RedisOptions;
use runs::{Db, DbOptions};
use std::sync::Arc;
use std::time::Duration;
use tools::ToolOptions;

/// Runs jobs: plans, calls tools, writes every event.
#[derive(Debug, Parser)]
#[command(
    name = "agent-worker",
    version,
    after_help = "Example: DATABASE_URL=… REDIS_URL=… LLM_PRIMARY_PROVIDER=scripted agent-worker"
)]
pub struct Cli {
    #[command(flatten)]
    pub options: Options,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Try what the worker depends on; one line per check, exit 0 when all are fine, else 1.
    Check {
        /// Which checks [default: all].
        what: Vec<Target>,
    },
}

/// Something `check` can try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    Postgres,
    Redis,
    S3,
    Model,
    /// Search and connectors that are set up; connectors are asked whether they know their token
    Tools,
    /// Isolation of shell and code on this machine; only when it is named
    Sandbox,
    /// Rights, quota, images, store and clocks of tools that run as Jobs
    Kubernetes,
}

#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub db: DbOptions,
    #[command(flatten)]
    pub redis: RedisOptions,
    #[command(flatten)]
    pub s3: S3Options,
    #[command(flatten)]
    pub retention: RetentionOptions,
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub sandbox: SandboxOptions,
    #[command(flatten)]
    pub kubernetes: KubernetesOptions,
    #[command(flatten)]
    pub tools: ToolOptions,
    #[command(flatten)]
    pub worker: WorkerOptions,
    #[command(flatten)]
    pub agent: AgentOptions,
    #[command(flatten)]
    pub budgets: BudgetOptions,
    #[command(flatten)]
    pub traces: bootstrap::traces::TraceOptions,
}

impl Options {
    /// Only where they count.
    fn kubernetes_faults(&self) -> Faults {
        if self.sandbox.tool_executor == ToolExecutor::Kubernetes {
            self.kubernetes.faults()
        } else {
            Faults::default()
        }
    }

    /// What must not be stored, streamed or logged: the policy with the secrets of this process.
    pub fn redactor(&self) -> Redactor {
        let s3 = self.s3.store.keys().map(|(_, secret)| secret.to_owned());
        let secrets: Vec<String> = s3
            .into_iter()
            .chain(self.model.secrets())
            .chain(self.tools.secrets())
            .chain(self.db.secrets())
            .chain(self.redis.secrets())
            .collect();
        let preserved = self.agent.runtime_redaction_preserve_keys.iter();
        Redactor::new(secrets.iter().map(String::as_str), preserved.map(String::as_str))
    }
}

#[derive(Debug, Clone, Args)]
pub struct WorkerOptions {
    /// Address of the admin listener: /healthz, /readyz, /metrics.
    #[arg(long, env = "WORKER_ADMIN_ADDR", default_value = "127.0.0.1:9090")]
    pub worker_admin_addr: String,
    /// Jobs at a time.
    #[arg(long, env = "WORKER_CONCURRENCY", default_value_t = 4)]
    pub worker_concurrency: u32,
    /// Longest blocking wait for a job, in seconds.
    #[arg(long, env = "WORKER_JOB_TIMEOUT", default_value_t = 5)]
    pub worker_job_timeout: u64,
    /// A held job's lease, in seconds.
    #[arg(long, env = "WORKER_LEASE_SECONDS", default_value_t = 9)]
    pub worker_lease_seconds: u64,
    /// Seconds between two renewals of the leases.
    #[arg(long, env = "WORKER_HEARTBEAT_SECONDS", default_value_t = 3)]
    pub worker_heartbeat_seconds: u64,
    /// Lost workers in a row after which a job is buried as poison.
    #[arg(long, env = "WORKER_MAX_CRASHES", default_value_t = 3)]
    pub worker_max_crashes: u32,
    /// Largest delay before the first retry, in milliseconds; doubles with each.
    #[arg(long, env = "WORKER_RETRY_BASE_MS", default_value_t = 1000)]
    pub worker_retry_base_ms: u64,
    /// Largest delay before any retry, in milliseconds.
    #[arg(long, env = "WORKER_RETRY_CAP_MS", default_value_t = 60_000)]
    pub worker_retry_cap_ms: u64,
    /// Seconds a running step may go on after SIGTERM.
    #[arg(long, env = "WORKER_SHUTDOWN_GRACE_SECONDS", default_value_t = 25)]
    pub worker_shutdown_grace_seconds: u64,
    /// Seconds to wait for Postgres and the listen address at start.
    #[arg(long, env = "STARTUP_TIMEOUT_SECONDS", default_value_t = 30)]
    pub startup_timeout_seconds: u64,
    /// Apply the database schema at start.
    #[arg(long, env = "DB_AUTO_MIGRATE", default_value_t = true, action = clap::ArgAction::Set)]
    pub db_auto_migrate: bool,
    /// rust_active, or shadow_only or read_only: then no job is taken and no time limit ends a run.
    #[arg(long, env = "RUNTIME_AUTHORITY_WRITE_MODE", default_value = "rust_active")]
    pub runtime_authority_write_mode: String,
    /// Log level or filter.
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
}

impl WorkerOptions {
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.worker_lease_seconds)
    }

    pub fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.worker_heartbeat_seconds)
    }

    pub fn write_mode(&self) -> WriteMode {
        WriteMode::parse(&self.runtime_authority_write_mode).unwrap_or(WriteMode::ReadOnly)
    }

    pub fn backoff(&self) -> Backoff {
        Backoff {
            base: Duration::from_millis(self.worker_retry_base_ms),
            cap: Duration::from_millis(self.worker_retry_cap_ms),
        }
    }

    fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        for (name, value) in [
            ("WORKER_CONCURRENCY", u64::from(self.worker_concurrency)),
            ("WORKER_JOB_TIMEOUT", self.worker_job_timeout),
            ("WORKER_HEARTBEAT_SECONDS", self.worker_heartbeat_seconds),
            ("WORKER_MAX_CRASHES", u64::from(self.worker_max_crashes)),
        ] {
            if value == 0 {
                faults.invalid(format!("{name}: must be at least 1"));
            }
        }
        let mode = &self.runtime_authority_write_mode;
        if WriteMode::parse(mode).is_none() {
            faults.invalid(format!("invalid RUNTIME_AUTHORITY_WRITE_MODE: {mode}"));
        }
        // One renewal may fail and the next must still come before the lease runs out.
        if self.worker_lease_seconds < 2 * self.worker_heartbeat_seconds + 1 {
            let text = "WORKER_LEASE_SECONDS: must be more than twice WORKER_HEARTBEAT_SECONDS";
            faults.invalid(text);
        }
        faults
    }
}

impl Validate for Options {
    fn faults(&self) -> Faults {
        let redis = self.redis.validate();
        let redis = Faults {
            missing: redis.missing,
            invalid: redis.invalid,
        };
        db_faults(&self.db)
            .merge(redis)
            .merge(model_faults(&self.model))
            .merge(self.kubernetes_faults())
            .merge(tool_faults(&self.tools))
            .merge(self.worker.faults())
            .merge(self.agent.faults())
    }
}

fn db_faults(db: &DbOptions) -> Faults {
    let mut faults = Faults::default();
    if !db.is_complete() {
        faults.missing("DATABASE_URL (or POSTGRES_HOST and POSTGRES_PASSWORD)");
    } else if let Err(fault) = Db::connect(db) {
        faults.invalid(with_sources(&fault));
    }
    faults
}

fn model_faults(model: &ModelOptions) -> Faults {
    let mut faults = Faults::default();
    match model.connect(Arc::new(SystemClock)) {
        Ok(_) => {}
        Err(SetupError::Missing { settings, .. }) => faults.missing(settings),
        Err(fault) => faults.invalid(with_sources(&fault)),
    }
    faults
}

fn tool_faults(tools: &ToolOptions) -> Faults {
    let mut faults = Faults::default();
    for fault in tools.faults() {
        faults.invalid(fault);
    }
    faults
}

impl Validate for Cli {
    /// `check` reports missing settings itself, line by line.
    fn faults(&self) -> Faults {
        if self.command.is_some() {
            Faults::default()
        } else {
            self.options.faults()
        }
    }
}
