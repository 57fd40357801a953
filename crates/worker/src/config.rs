//! Settings of `agent-worker`.

use crate::backoff::Backoff;
use crate::counting::CountingTools;
use crate::kubernetes::KubernetesOptions;
use crate::log::with_sources;
use crate::model::{ModelOptions, SetupError};
use crate::retention::RetentionOptions;
use crate::sandbox::{SandboxOptions, ToolExecutor};
use crate::snapshot::GateRules;
use crate::workspace::S3Options;
use agent::context::{CONTEXT_TOKENS, MIN_CONTEXT_TOKENS};
use agent::driver::OnUnknown;
use agent::supervisor::Limits;
use bootstrap::{Faults, Validate};
use clap::{Args, Parser, Subcommand, ValueEnum};
use domain::budget::{Budget, Dimension};
use domain::redact::Redactor;
use domain::{Policy, SystemClock, WriteMode};
use queue::RedisOptions;
use runs::{DayCaps, Db, DbOptions};
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

#[derive(Debug, Clone, Args)]
pub struct AgentOptions {
    /// Keys (comma list) whose value is only searched for personal details, not replaced whole; never those of secrets.
    #[arg(long, env = "RUNTIME_REDACTION_PRESERVE_KEYS", value_delimiter = ',')]
    pub runtime_redaction_preserve_keys: Vec<String>,
    /// Working time of a run, in seconds; waiting and paused time is not counted.
    #[arg(long, env = "AGENT_RUN_TIMEOUT_SECONDS", default_value_t = 3600)]
    pub agent_run_timeout_seconds: u64,
    /// Longest wait for the user, in seconds.
    #[arg(long, env = "AGENT_WAITING_TIMEOUT_SECONDS", default_value_t = 86_400)]
    pub agent_waiting_timeout_seconds: u64,
    /// Policy of every run, as JSON: allow, ask or deny by tool; a run's own policy lies over it.
    #[arg(long, env = "AGENT_DEFAULT_POLICY", default_value = "{\"mcp__*\":\"ask\"}")]
    pub agent_default_policy: String,
    /// An approval that nobody gave after this many seconds counts as rejected.
    #[arg(long, env = "AGENT_APPROVAL_TIMEOUT_SECONDS", default_value_t = 86_400)]
    pub agent_approval_timeout_seconds: u64,
    /// Turns of a run.
    #[arg(long, env = "AGENT_MAX_ITERATIONS", default_value_t = 50)]
    pub agent_max_iterations: u32,
    /// Failing steps in a row.
    #[arg(long, env = "AGENT_MAX_CONSECUTIVE_FAILURES", default_value_t = 5)]
    pub agent_max_consecutive_failures: u32,
    /// Longest view of a run that the model gets, in estimated tokens; older parts are taken out of it, not of the log.
    #[arg(long, env = "AGENT_CONTEXT_TOKENS", default_value_t = CONTEXT_TOKENS)]
    pub agent_context_tokens: u32,
    /// Reading tool calls of one turn that run side by side.
    #[arg(long, env = "AGENT_PARALLEL_CALLS", default_value_t = 4)]
    pub agent_parallel_calls: u32,
    /// Time of a tool call that has no limit of its own, in seconds.
    #[arg(long, env = "AGENT_STEP_TIMEOUT_SECONDS", default_value_t = 600)]
    pub agent_step_timeout_seconds: u64,
    /// A run that repeats itself is warned, then paused [auto: unless the model is scripted, on, off].
    #[arg(long, env = "AGENT_STALL_DETECTION", default_value = "auto")]
    pub agent_stall_detection: Watch,
    /// A phase is done when the files its plan names are there [auto: unless the model is scripted, on, off].
    #[arg(long, env = "AGENT_CHECK_OUTPUTS", default_value = "auto")]
    pub agent_check_outputs: Watch,
    /// A tool call that must not be repeated and whose worker was lost: ask the user, or tell the model [ask, tell_model].
    #[arg(long, env = "AGENT_ON_UNKNOWN", default_value = "ask")]
    pub agent_on_unknown: OnUnknownChoice,
    /// Counting tools of the fault tests: a loopback address they are called at.
    #[arg(long, env = "AGENT_COUNTING_TOOLS_URL", hide = true)]
    pub agent_counting_tools_url: Option<String>,
    /// Charge settled steps to the users' balances.
    #[arg(long, env = "CREDITS_ENFORCED", default_value_t = false, action = clap::ArgAction::Set)]
    pub credits_enforced: bool,
}

/// What all runs of a day (UTC) may use together; nothing set is no cap.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Budgets")]
#[expect(clippy::struct_field_names, reason = "the settings' names")]
pub struct BudgetOptions {
    /// Tokens of one user in a day (UTC) [default: no cap]
    #[arg(long, env = "BUDGET_USER_DAILY_TOKENS", value_parser = clap::value_parser!(i64).range(0..))]
    pub budget_user_daily_tokens: Option<i64>,
    /// Dollars of one user in a day (UTC) [default: no cap]
    #[arg(long, env = "BUDGET_USER_DAILY_COST_USD", value_parser = dollars)]
    pub budget_user_daily_cost_usd: Option<i64>,
    /// Tokens of all users in a day (UTC) [default: no cap]
    #[arg(long, env = "BUDGET_DAILY_TOKENS", value_parser = clap::value_parser!(i64).range(0..))]
    pub budget_daily_tokens: Option<i64>,
    /// Dollars of all users in a day (UTC) [default: no cap]
    #[arg(long, env = "BUDGET_DAILY_COST_USD", value_parser = dollars)]
    pub budget_daily_cost_usd: Option<i64>,
}

impl BudgetOptions {
    /// The caps of a day.
    pub fn caps(&self) -> DayCaps {
        let caps = |tokens, cost| {
            Budget::default()
                .with(Dimension::Tokens, tokens)
                .with(Dimension::Cost, cost)
        };
        DayCaps {
            user: caps(self.budget_user_daily_tokens, self.budget_user_daily_cost_usd),
            all: caps(self.budget_daily_tokens, self.budget_daily_cost_usd),
        }
    }
}

/// Dollars as micro-dollars.
fn dollars(value: &str) -> Result<i64, String> {
    match value.trim().parse::<f64>() {
        Ok(dollars) if (0.0..=1e9).contains(&dollars) => Ok((dollars * 1e6).round() as i64),
        _ => Err("must be a number of dollars, 0 or more".to_owned()),
    }
}

/// Whether something is watched. A script is followed as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Watch {
    /// Unless the model is scripted.
    Auto,
    On,
    Off,
}

impl Watch {
    const fn is_on(self, scripted: bool) -> bool {
        match self {
            Self::Auto => !scripted,
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// `AGENT_ON_UNKNOWN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum OnUnknownChoice {
    Ask,
    TellModel,
}

impl AgentOptions {
    pub const fn on_unknown(&self) -> OnUnknown {
        match self.agent_on_unknown {
            OnUnknownChoice::Ask => OnUnknown::Ask,
            OnUnknownChoice::TellModel => OnUnknown::TellModel,
        }
    }

    /// What holds for every run.
    pub fn gate(&self) -> GateRules {
        GateRules {
            policy: Arc::new(self.default_policy().unwrap_or_else(|_| Policy::asking())),
            approval_timeout: Duration::from_secs(self.agent_approval_timeout_seconds),
        }
    }

    fn default_policy(&self) -> Result<Policy, String> {
        let value = serde_json::from_str(&self.agent_default_policy).map_err(|fault| fault.to_string())?;
        Policy::parse(&value).map_err(|fault| fault.to_string())
    }

    fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        if let Err(fault) = self.default_policy() {
            faults.invalid(format!("AGENT_DEFAULT_POLICY: {fault}"));
        }
        if let Some(Err(fault)) = self.agent_counting_tools_url.as_deref().map(CountingTools::at) {
            faults.invalid(format!("AGENT_COUNTING_TOOLS_URL: {fault}"));
        }
        if self.agent_context_tokens < MIN_CONTEXT_TOKENS {
            faults.invalid(format!(
                "AGENT_CONTEXT_TOKENS: must be at least {MIN_CONTEXT_TOKENS}"
            ));
        }
        for (name, value) in [
            ("AGENT_PARALLEL_CALLS", u64::from(self.agent_parallel_calls)),
            ("AGENT_STEP_TIMEOUT_SECONDS", self.agent_step_timeout_seconds),
        ] {
            if value == 0 {
                faults.invalid(format!("{name}: must be at least 1"));
            }
        }
        faults
    }

    /// Limits of every run; `scripted` when the model follows a script.
    pub fn limits(&self, scripted: bool) -> Limits {
        Limits {
            max_turns: self.agent_max_iterations,
            max_failures: self.agent_max_consecutive_failures,
            context_tokens: self.agent_context_tokens,
            parallel_calls: self.agent_parallel_calls,
            step_timeout_seconds: self.agent_step_timeout_seconds,
            detect_stalls: self.agent_stall_detection.is_on(scripted),
            check_outputs: self.agent_check_outputs.is_on(scripted),
        }
    }
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
