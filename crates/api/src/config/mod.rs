//! Settings of `agent-api`, one group per concern, and what is required when.
//!
//! `migrate` and `keys` need the database only; `API_SURFACES=internal` needs neither Redis nor a JWT key,
//! except Redis for signed requests (nonces).

use crate::auth::jwt::MAX_USER_ID_CHARS;
use crate::commands::{EventsCommand, HistoryCommand, ReprojectArgs};
use bootstrap::settings::{Faults, Validate};
use clap::{Parser, Subcommand};
use domain::redact::{Redactor, url_password};
use std::net::SocketAddr;
use std::path::PathBuf;

mod limits;
mod options;

pub use domain::WriteMode;
pub use limits::{CreditOptions, LimitOptions};
pub use options::{DownloadOptions, JwtOptions, NeighbourOptions, Options, RuntimeOptions, ServerOptions};

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
    /// The description of the internal surface.
    Contract {
        #[command(subcommand)]
        command: ContractCommand,
    },
    /// Make, drive and end a run on a running internal surface; one line per step.
    Smoke {
        /// Where the internal surface listens.
        #[arg(long, env = "SMOKE_BASE_URL")]
        base_url: Option<String>,
        /// Token for a service without RUNTIME_SIGNATURE_SECRET.
        #[arg(long, env = "SMOKE_BEARER_TOKEN", hide_env_values = true)]
        bearer_token: Option<bootstrap::Redacted<String>>,
    },
    /// API keys.
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Recorded histories.
    History {
        #[command(subcommand)]
        command: HistoryCommand,
    },
    /// Stored events.
    Events {
        #[command(subcommand)]
        command: EventsCommand,
    },
    /// Compare checkpoints and summaries of runs with their events, or make them anew.
    Reproject(ReprojectArgs),
}

/// What to do with the description of the internal surface.
#[derive(Debug, Subcommand)]
pub enum ContractCommand {
    /// Compare the served routes with their documents; exit 1 on any difference. Needs no database.
    Check {
        #[arg(long, default_value = "docs/openapi.yaml")]
        openapi: PathBuf,
        #[arg(long, default_value = "docs/RUNTIME_CONTRACT.md")]
        markdown: PathBuf,
    },
}

/// What to do with API keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key and print it, once.
    Create {
        /// Whose key: the user id of its requests.
        #[arg(long, value_parser = user_id)]
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

/// A user id as tokens carry them; a blank one is a slip of the shell, not a user.
fn user_id(text: &str) -> Result<String, String> {
    if text.trim().is_empty() || text.chars().count() > MAX_USER_ID_CHARS {
        return Err(format!("a user id has 1 to {MAX_USER_ID_CHARS} characters"));
    }
    Ok(text.to_owned())
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

    /// What must not be stored, streamed or logged: the policy with the secrets of this process.
    pub fn redactor(&self) -> Redactor {
        let given = [
            &self.jwt.jwt_secret,
            &self.runtime.runtime_signature_secret,
            &self.s3.s3_secret_key,
            &self.neighbours.anthropic_api_key,
            &self.neighbours.openai_api_key,
        ];
        let given = given.into_iter().flatten().map(|secret| secret.expose().clone());
        let in_url = self.neighbours.openai_base_url.as_deref().and_then(url_password);
        let secrets: Vec<String> = given
            .chain(in_url)
            .chain(self.db.secrets())
            .chain(self.redis.secrets())
            .collect();
        let preserved = self.runtime.runtime_redaction_preserve_keys.iter();
        Redactor::new(secrets.iter().map(String::as_str), preserved.map(String::as_str))
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
            Some(Command::Smoke { base_url: None, .. }) => Faults {
                missing: vec!["SMOKE_BASE_URL (or --base-url)".to_owned()],
                invalid: vec![],
            },
            Some(Command::Contract { .. } | Command::Smoke { .. } | Command::History { .. }) => {
                Faults::default()
            }
            Some(_) => self.options.db_faults(),
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
        let expected = "missing required settings: REDIS_URL (or DRAGONFLY_HOST)";
        assert_eq!(lines(&[], &signed), [expected]);
        let complete = [
            DB,
            internal,
            ("RUNTIME_SIGNATURE_SECRET", "s"),
            ("REDIS_URL", "redis://h"),
        ];
        assert_eq!(lines(&[], &complete), Vec::<String>::new());
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
