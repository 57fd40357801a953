//! What one user, one request and one process may take.

use crate::quota::Quotas;
use clap::Args;
use domain::Budget;

/// Limits of the public surface; 0 is none.
#[derive(Debug, Clone, Args)]
pub struct LimitOptions {
    /// Requests per second of one user at this process; 0 for no limit.
    #[arg(long, env = "API_RATE_LIMIT_PER_SECOND", default_value_t = 5000)]
    pub api_rate_limit_per_second: u32,
    /// Requests of one user at once after a silence.
    #[arg(long, env = "API_RATE_LIMIT_BURST", default_value_t = 10_000)]
    pub api_rate_limit_burst: u32,
    /// Requests of one user in work at this process; 0 for no limit.
    #[arg(long, env = "API_MAX_CONCURRENT_PER_USER", default_value_t = 1000)]
    pub api_max_concurrent_per_user: u32,
    /// Time for the answer of a request, streams apart, in seconds.
    #[arg(long, env = "API_REQUEST_TIMEOUT_SECONDS", default_value_t = 30)]
    pub api_request_timeout_seconds: u64,
    /// Open streams of one user at this process; 0 for no limit.
    #[arg(long, env = "STREAM_MAX_PER_USER", default_value_t = 10_000)]
    pub stream_max_per_user: u32,
    /// Open streams of this process; 0 for no limit.
    #[arg(long, env = "STREAM_MAX_CONNECTIONS", default_value_t = 20_000)]
    pub stream_max_connections: u32,
}

impl LimitOptions {
    pub fn quotas(&self) -> Quotas {
        Quotas {
            per_second: self.api_rate_limit_per_second,
            burst: self.api_rate_limit_burst,
            concurrent: self.api_max_concurrent_per_user,
            streams_per_user: self.stream_max_per_user,
            streams: self.stream_max_connections,
        }
    }
}

/// Credits of users.
#[derive(Debug, Clone, Args)]
pub struct CreditOptions {
    /// Charge settled steps to the users' balances, and refuse new runs of users without credits.
    #[arg(long, env = "CREDITS_ENFORCED", default_value_t = false, action = clap::ArgAction::Set)]
    pub credits_enforced: bool,
    /// Credits given to a user who is seen for the first time.
    #[arg(long, env = "CREDITS_INITIAL_GRANT", default_value_t = 0.0)]
    pub credits_initial_grant: f64,
    /// Budget of new runs as JSON, for example `{"tokens":200000,"cost_usd":2}`; a request's own caps go before it.
    #[arg(long, env = "AGENT_DEFAULT_BUDGET", value_parser = default_budget)]
    pub agent_default_budget: Option<Budget>,
}

impl CreditOptions {
    /// What a new run may spend.
    pub fn budget(&self) -> Budget {
        self.agent_default_budget.unwrap_or_default()
    }
}

/// An empty value counts as absent.
fn default_budget(text: &str) -> Result<Budget, String> {
    if text.trim().is_empty() {
        return Ok(Budget::default());
    }
    let value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    Budget::from_value(&value).map_err(|fault| fault.to_string())
}
