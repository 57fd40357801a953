//! The settings themselves, one group per concern.

use super::{CreditOptions, LimitOptions};
use bootstrap::Redacted;
use clap::{ArgAction, Args};
use std::time::Duration;
use workspace::Workspaces;

/// Everything `agent-api` can be told.
#[derive(Debug, Clone, Args)]
pub struct Options {
    #[command(flatten)]
    pub db: runs::DbOptions,
    #[command(flatten)]
    pub redis: queue::RedisOptions,
    #[command(flatten)]
    pub server: ServerOptions,
    #[command(flatten)]
    pub limits: LimitOptions,
    #[command(flatten)]
    pub credits: CreditOptions,
    #[command(flatten)]
    pub jwt: JwtOptions,
    #[command(flatten)]
    pub runtime: RuntimeOptions,
    #[command(flatten)]
    pub s3: workspace::StoreOptions,
    #[command(flatten)]
    pub downloads: DownloadOptions,
    #[command(flatten)]
    pub neighbours: NeighbourOptions,
    #[command(flatten)]
    pub traces: bootstrap::traces::TraceOptions,
}

/// Listeners, limits, shutdown.
#[derive(Debug, Clone, Args)]
pub struct ServerOptions {
    /// Address of the public surface.
    #[arg(long, env = "API_BIND_ADDR", default_value = "127.0.0.1:8000")]
    pub api_bind_addr: String,
    /// Surfaces to serve: public, internal.
    #[arg(
        long,
        env = "API_SURFACES",
        default_value = "public,internal",
        value_delimiter = ','
    )]
    pub api_surfaces: Vec<String>,
    /// Shown by /health and /openapi.json.
    #[arg(long, env = "VERSION", default_value = "1.0.0")]
    pub api_version: String,
    /// JSON list or comma list of origins; `*` for any.
    #[arg(long, env = "CORS_ORIGINS", default_value = "[\"*\"]")]
    pub cors_origins: String,
    /// Longest request body, in bytes.
    #[arg(long, env = "AGENT_MAX_BODY_BYTES", default_value_t = 10_485_760)]
    pub agent_max_body_bytes: usize,
    /// Let `create` enqueue unless `auto_start` is false.
    #[arg(long, env = "AGENT_CREATE_AUTOSTART", default_value_t = false, action = ArgAction::Set)]
    pub agent_create_autostart: bool,
    /// Life of a ticket for the streams of a run, in seconds.
    #[arg(long, env = "STREAM_TICKET_TTL_SECONDS", default_value_t = 300)]
    pub stream_ticket_ttl_seconds: u64,
    /// Retries of a new run after its first attempt.
    #[arg(long, env = "WORKER_MAX_RETRIES", default_value_t = 3)]
    pub worker_max_retries: u32,
    /// Time for Postgres and the listen addresses to become usable, in seconds.
    #[arg(long, env = "STARTUP_TIMEOUT_SECONDS", default_value_t = 30)]
    pub startup_timeout_seconds: u64,
    /// Time for requests in work after SIGTERM, in seconds.
    #[arg(long, env = "API_SHUTDOWN_GRACE_SECONDS", default_value_t = 25)]
    pub api_shutdown_grace_seconds: u64,
    /// A client that takes nothing of its answer for this long is disconnected, in seconds.
    #[arg(long, env = "API_WRITE_STALL_SECONDS", default_value_t = 30)]
    pub api_write_stall_seconds: u64,
    /// Apply the schema at start; when false an older schema ends the start with 69.
    #[arg(long, env = "DB_AUTO_MIGRATE", default_value_t = true, action = ArgAction::Set)]
    pub db_auto_migrate: bool,
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Log filter; wins over LOG_LEVEL.
    #[arg(long, env = "RUST_LOG")]
    pub rust_log: Option<String>,
}

/// How tokens are verified.
#[derive(Debug, Clone, Args)]
pub struct JwtOptions {
    /// Secret of HS256 tokens.
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<Redacted<String>>,
    /// Key set of RS256, ES256 and EdDSA tokens.
    #[arg(long, env = "JWT_JWKS_URL")]
    pub jwt_jwks_url: Option<String>,
    /// Accepted issuers; any when absent.
    #[arg(long, env = "JWT_ISSUERS", value_delimiter = ',')]
    pub jwt_issuers: Vec<String>,
    #[arg(long, env = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// Refuse tokens without `exp`.
    #[arg(long, env = "JWT_REQUIRE_EXP", default_value_t = false, action = ArgAction::Set)]
    pub jwt_require_exp: bool,
    #[arg(long, env = "JWT_ADMIN_ROLE", default_value = "admin")]
    pub jwt_admin_role: String,
}

/// The internal surface.
#[derive(Debug, Clone, Args)]
pub struct RuntimeOptions {
    /// Address of the internal surface.
    #[arg(long, env = "RUNTIME_BIND_ADDR", default_value = "127.0.0.1:4100")]
    pub runtime_bind_addr: String,
    #[arg(long, env = "RUNTIME_SERVICE_NAME", default_value = "runtime")]
    pub runtime_service_name: String,
    #[arg(long, env = "RUNTIME_BUILD_SHA", default_value = "dev")]
    pub runtime_build_sha: String,
    /// Key of signed requests to the internal surface; needs Redis.
    #[arg(long, env = "RUNTIME_SIGNATURE_SECRET", hide_env_values = true)]
    pub runtime_signature_secret: Option<Redacted<String>>,
    /// rust_active, shadow_only or read_only.
    #[arg(long, env = "RUNTIME_AUTHORITY_WRITE_MODE", default_value = "rust_active")]
    pub runtime_authority_write_mode: String,
    /// Age of a worker's last heartbeat above which it counts as stale, in ms.
    #[arg(long, env = "RUNTIME_HEARTBEAT_STALE_AFTER_MS", default_value_t = 120_000,
        value_parser = clap::value_parser!(i64).range(0..))]
    pub runtime_heartbeat_stale_after_ms: i64,
    /// Longest request body on the internal surface, in bytes.
    #[arg(long, env = "RUNTIME_MAX_BODY_BYTES", default_value_t = 2_097_152)]
    pub runtime_max_body_bytes: usize,
    /// Keys (comma list) whose value is only searched for personal details, not replaced whole; never those of secrets.
    #[arg(long, env = "RUNTIME_REDACTION_PRESERVE_KEYS", value_delimiter = ',')]
    pub runtime_redaction_preserve_keys: Vec<String>,
    /// Without effect; kept so that its use is told.
    #[arg(long, env = "RUNTIME_EVENT_LOG_PATH", hide = true)]
    pub runtime_event_log_path: Option<String>,
    /// Without effect; kept so that its use is told.
    #[arg(long, env = "RUNTIME_CHECKPOINT_PATH", hide = true)]
    pub runtime_checkpoint_path: Option<String>,
}

/// Files handed out.
#[derive(Debug, Clone, Args)]
pub struct DownloadOptions {
    /// Life of an address of a file, in seconds.
    #[arg(long, env = "DOWNLOAD_URL_TTL_SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub download_url_ttl_seconds: u64,
    /// Endpoint of the store in addresses of files, where clients see it under another name than S3_ENDPOINT.
    #[arg(long, env = "S3_PUBLIC_ENDPOINT")]
    pub s3_public_endpoint: Option<String>,
}

impl DownloadOptions {
    pub const fn ttl(&self) -> Duration {
        Duration::from_secs(self.download_url_ttl_seconds)
    }
}

impl Options {
    /// The runs' files, to be read.
    pub fn files(&self) -> Workspaces {
        match self.downloads.s3_public_endpoint.as_deref() {
            Some(public) if !public.is_empty() => Workspaces::linked_at(&self.s3, public),
            _ => Workspaces::for_reading(&self.s3),
        }
    }
}

/// Services this process only reports on: they are the worker's to use.
#[derive(Debug, Clone, Args)]
pub struct NeighbourOptions {
    #[arg(long, env = "LLM_PRIMARY_PROVIDER")]
    pub llm_primary_provider: Option<String>,
    #[arg(long, env = "ANTHROPIC_API_KEY", hide_env_values = true)]
    pub anthropic_api_key: Option<Redacted<String>>,
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true)]
    pub openai_api_key: Option<Redacted<String>>,
    #[arg(long, env = "OPENAI_BASE_URL")]
    pub openai_base_url: Option<String>,
}
