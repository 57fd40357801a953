//! Settings of `agent-api`, one group per concern, and what is required when.
//!
//! `migrate` and `keys` need the database only; `API_SURFACES=internal` needs neither Redis nor a JWT key,
//! except Redis for signed requests (nonces).

use bootstrap::Redacted;
use bootstrap::settings::{Faults, Validate};
use clap::{ArgAction, Args, Parser, Subcommand};
use std::net::SocketAddr;

/// The program's command line.
#[derive(Debug, Parser)]
#[command(name = "agent-api", version, about = "HTTP edge of the agent runtime")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub options: Options,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Apply the database schema; safe to repeat and to run in parallel.
    Migrate {
        /// First make the database of the URL when the server does not have it.
        #[arg(long)]
        create_database: bool,
    },
    /// API keys.
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
}

/// What to do with API keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key and print it, once.
    Create {
        /// Whose key: the user id of its requests.
        #[arg(long)]
        user: String,
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        admin: bool,
    },
    /// All keys without their secrets.
    List,
    /// Refuse a key from now on.
    Revoke { id: String },
}

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
    pub jwt: JwtOptions,
    #[command(flatten)]
    pub runtime: RuntimeOptions,
    #[command(flatten)]
    pub neighbours: NeighbourOptions,
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
    /// Retries of a new run after its first attempt.
    #[arg(long, env = "WORKER_MAX_RETRIES", default_value_t = 3)]
    pub worker_max_retries: u32,
    /// Time for Postgres and the listen addresses to become usable, in seconds.
    #[arg(long, env = "STARTUP_TIMEOUT_SECONDS", default_value_t = 30)]
    pub startup_timeout_seconds: u64,
    /// Time for requests in work after SIGTERM, in seconds.
    #[arg(long, env = "API_SHUTDOWN_GRACE_SECONDS", default_value_t = 25)]
    pub api_shutdown_grace_seconds: u64,
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
    /// Key of signed requests; needs Redis for their nonces.
    #[arg(long, env = "RUNTIME_SIGNATURE_SECRET", hide_env_values = true)]
    pub runtime_signature_secret: Option<Redacted<String>>,
    /// rust_active, shadow_only or read_only.
    #[arg(long, env = "RUNTIME_AUTHORITY_WRITE_MODE", default_value = "rust_active")]
    pub runtime_authority_write_mode: String,
    /// Longest request body on the internal surface, in bytes.
    #[arg(long, env = "RUNTIME_MAX_BODY_BYTES", default_value_t = 2_097_152)]
    pub runtime_max_body_bytes: usize,
    /// Without effect; kept so that its use is told.
    #[arg(long, env = "RUNTIME_EVENT_LOG_PATH", hide = true)]
    pub runtime_event_log_path: Option<String>,
    /// Without effect; kept so that its use is told.
    #[arg(long, env = "RUNTIME_CHECKPOINT_PATH", hide = true)]
    pub runtime_checkpoint_path: Option<String>,
}

/// Services this process only reports on: they are the worker's to use.
#[derive(Debug, Clone, Args)]
pub struct NeighbourOptions {
    #[arg(long, env = "S3_ENDPOINT", default_value = "https://sos-ch-gva-2.exo.io")]
    pub s3_endpoint: String,
    #[arg(long, env = "S3_ACCESS_KEY", hide_env_values = true)]
    pub s3_access_key: Option<Redacted<String>>,
    #[arg(long, env = "S3_SECRET_KEY", hide_env_values = true)]
    pub s3_secret_key: Option<Redacted<String>>,
    #[arg(long, env = "LLM_PRIMARY_PROVIDER")]
    pub llm_primary_provider: Option<String>,
    #[arg(long, env = "ANTHROPIC_API_KEY", hide_env_values = true)]
    pub anthropic_api_key: Option<Redacted<String>>,
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true)]
    pub openai_api_key: Option<Redacted<String>>,
    #[arg(long, env = "OPENAI_BASE_URL")]
    pub openai_base_url: Option<String>,
}

/// Whether this process may write (`RUNTIME_AUTHORITY_WRITE_MODE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    RustActive,
    ShadowOnly,
    ReadOnly,
}

impl WriteMode {
    pub fn parse(name: &str) -> Option<Self> {
        [Self::RustActive, Self::ShadowOnly, Self::ReadOnly]
            .into_iter()
            .find(|mode| mode.as_str() == name)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RustActive => "rust_active",
            Self::ShadowOnly => "shadow_only",
            Self::ReadOnly => "read_only",
        }
    }

    pub fn may_write(self) -> bool {
        self == Self::RustActive
    }
}

impl Options {
    pub fn serves_public(&self) -> bool {
        self.serves("public")
    }

    pub fn serves_internal(&self) -> bool {
        self.serves("internal")
    }

    fn serves(&self, surface: &str) -> bool {
        self.server.api_surfaces.iter().any(|own| own.trim() == surface)
    }

    pub fn write_mode(&self) -> WriteMode {
        WriteMode::parse(&self.runtime.runtime_authority_write_mode).unwrap_or(WriteMode::ReadOnly)
    }

    /// The log filter.
    pub fn log_filter(&self) -> &str {
        self.server.rust_log.as_deref().unwrap_or(&self.server.log_level)
    }

    fn db_faults(&self) -> Faults {
        let mut faults = Faults::default();
        match runs::Db::connect(&self.db) {
            Err(runs::DbOptionsError::Missing) => {
                faults.missing(runs::DbOptionsError::Missing.to_string());
            }
            Err(error) => faults.invalid(error.to_string()),
            Ok(_) => {}
        }
        faults
    }

    /// Whether Redis must be configured.
    pub fn needs_redis(&self) -> bool {
        self.serves_public() || self.runtime.runtime_signature_secret.is_some()
    }

    fn redis_faults(&self) -> Faults {
        let given = self.redis.validate();
        // A wrong address is wrong even where none is needed.
        let missing = if self.needs_redis() { given.missing } else { vec![] };
        Faults {
            missing,
            invalid: given.invalid,
        }
    }

    fn surface_faults(&self) -> Faults {
        let mut faults = Faults::default();
        let jwt = &self.jwt;
        if self.serves_public() && jwt.jwt_secret.is_none() && jwt.jwt_jwks_url.is_none() {
            faults.missing("JWT_SECRET (or JWT_JWKS_URL)");
        }
        for surface in &self.server.api_surfaces {
            if !matches!(surface.trim(), "public" | "internal") {
                faults.invalid(format!("API_SURFACES: unknown surface {surface}"));
            }
        }
        if let Err(reason) = check_addr(&self.server.api_bind_addr) {
            faults.invalid(format!("API_BIND_ADDR: {reason}"));
        }
        if let Err(reason) = check_addr(&self.runtime.runtime_bind_addr) {
            faults.invalid(format!("invalid RUNTIME_BIND_ADDR: {reason}"));
        }
        let mode = &self.runtime.runtime_authority_write_mode;
        if WriteMode::parse(mode).is_none() {
            faults.invalid(format!("invalid RUNTIME_AUTHORITY_WRITE_MODE: {mode}"));
        }
        if let Err(reason) = crate::cors::Cors::parse(&self.server.cors_origins) {
            faults.invalid(format!("CORS_ORIGINS: {reason}"));
        }
        faults
    }
}

impl Validate for Options {
    fn faults(&self) -> Faults {
        self.db_faults()
            .merge(self.redis_faults())
            .merge(self.surface_faults())
    }
}

impl Validate for Cli {
    fn faults(&self) -> Faults {
        match self.command {
            None => self.options.faults(),
            Some(Command::Migrate { .. } | Command::Keys { .. }) => self.options.db_faults(),
        }
    }
}

/// `ip:port` or `name:port`.
fn check_addr(addr: &str) -> Result<(), String> {
    let Err(error) = addr.parse::<SocketAddr>() else {
        return Ok(());
    };
    match addr.rsplit_once(':') {
        Some((host, port)) if is_host_name(host) && port.parse::<u16>().is_ok() => Ok(()),
        _ => Err(error.to_string()),
    }
}

fn is_host_name(host: &str) -> bool {
    let first = host.chars().next();
    first.is_some_and(char::is_alphabetic)
        && host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-.".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bootstrap::settings::{Lookup, Refusal, fault_lines, try_parse};
    use std::ffi::OsString;

    const DB: (&str, &str) = ("DATABASE_URL", "postgres://u:p@127.0.0.1:1/d");

    fn lines(args: &[&str], env: &[(&str, &str)]) -> Vec<String> {
        let env = Lookup::from_pairs(env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        let args = std::iter::once("agent-api")
            .chain(args.iter().copied())
            .map(OsString::from);
        match try_parse::<Cli>(args, &env) {
            Ok(_) => vec![],
            Err(Refusal::Settings(faults)) => fault_lines(&faults),
            Err(Refusal::CommandLine(error)) => panic!("{error}"),
        }
    }

    #[test]
    fn all_missing_settings_are_named_in_one_line() {
        let expected = "missing required settings: DATABASE_URL (or POSTGRES_HOST and POSTGRES_PASSWORD), \
            REDIS_URL (or DRAGONFLY_HOST), JWT_SECRET (or JWT_JWKS_URL)";
        assert_eq!(lines(&[], &[]), [expected]);
    }

    #[test]
    fn each_use_needs_only_its_own_settings() {
        assert_eq!(lines(&["migrate"], &[DB]), Vec::<String>::new());
        assert_eq!(lines(&["keys", "list"], &[DB]), Vec::<String>::new());
        let internal = ("API_SURFACES", "internal");
        assert_eq!(lines(&[], &[DB, internal]), Vec::<String>::new());
        let signed = [DB, internal, ("RUNTIME_SIGNATURE_SECRET", "s")];
        assert_eq!(
            lines(&[], &signed),
            ["missing required settings: REDIS_URL (or DRAGONFLY_HOST)"]
        );
    }

    #[test]
    fn wrong_values_are_named_with_their_reason() {
        let internal = ("API_SURFACES", "internal");
        let bad = [
            DB,
            internal,
            ("RUNTIME_BIND_ADDR", "nonsense"),
            ("RUNTIME_AUTHORITY_WRITE_MODE", "maybe"),
        ];
        let lines = lines(&[], &bad).join("\n");
        assert!(lines.contains("invalid RUNTIME_BIND_ADDR: "), "{lines}");
        assert!(
            lines.contains("invalid RUNTIME_AUTHORITY_WRITE_MODE: maybe"),
            "{lines}"
        );
    }

    #[test]
    fn addresses_are_ip_or_name_with_a_port() {
        for good in ["127.0.0.1:0", "[::1]:80", "localhost:4100", "api.example:1"] {
            assert_eq!(check_addr(good), Ok(()), "{good}");
        }
        for bad in ["", "4100", "127.0.0.1", "1.2.3.4.5:80", "localhost:99999", ":80"] {
            assert!(check_addr(bad).is_err(), "{bad}");
        }
    }
}
