//! Settings of the runs themselves: limits, what is watched, what may be spent.

use crate::counting::CountingTools;
use crate::snapshot::GateRules;
use agent::context::{CONTEXT_TOKENS, MIN_CONTEXT_TOKENS};
use agent::driver::OnUnknown;
use agent::supervisor::Limits;
use bootstrap::Faults;
use clap::{Args, ValueEnum};
use domain::Policy;
use domain::budget::{Budget, Dimension};
use runs::DayCaps;
use std::sync::Arc;
use std::time::Duration;

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
    /// A phase, and the task, is done when the files its plan names are there [auto: unless the model is scripted, on, off].
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

    pub(super) fn faults(&self) -> Faults {
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
