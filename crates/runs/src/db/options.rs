//! Where the database is: `DATABASE_URL` (or `DB_URL`), else the `POSTGRES_*` parts.

use clap::Args;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

/// Longest wait for a TCP connection, when the URL does not say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Unacknowledged data after this long means a dead peer.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// Settings of the database. Empty values count as absent.
#[derive(Args, Clone)]
pub struct DbOptions {
    /// Postgres URL; wins over POSTGRES_*. `sslmode` (disable, prefer, require, verify-ca, verify-full) and
    /// `sslrootcert` in it are honoured.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Second name of DATABASE_URL.
    #[arg(long, env = "DB_URL", hide_env_values = true, hide = true)]
    pub db_url: Option<String>,
    #[arg(long, env = "POSTGRES_HOST")]
    pub postgres_host: Option<String>,
    /// Default 5432.
    #[arg(long, env = "POSTGRES_PORT")]
    pub postgres_port: Option<String>,
    /// Default `agents`.
    #[arg(long, env = "POSTGRES_DB")]
    pub postgres_db: Option<String>,
    /// Default `postgres`.
    #[arg(long, env = "POSTGRES_USER")]
    pub postgres_user: Option<String>,
    #[arg(long, env = "POSTGRES_PASSWORD", hide_env_values = true)]
    pub postgres_password: Option<String>,
    /// Connections of this process.
    #[arg(long, env = "POOL_SIZE", default_value_t = 20)]
    pub pool_size: usize,
}

impl fmt::Debug for DbOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DbOptions")
            .field("postgres_host", &self.postgres_host)
            .field("pool_size", &self.pool_size)
            .finish_non_exhaustive()
    }
}

/// Why the settings cannot be used; never holds a value of them.
#[derive(Debug, thiserror::Error)]
pub enum DbOptionsError {
    /// To be reported with the other missing settings.
    #[error("DATABASE_URL (or POSTGRES_HOST and POSTGRES_PASSWORD)")]
    Missing,
    #[error("DATABASE_URL is not a Postgres URL")]
    Url(#[source] Option<tokio_postgres::Error>),
    #[error("DATABASE_URL has an unknown sslmode")]
    SslMode,
    #[error("POSTGRES_PORT is not a port number")]
    Port,
    #[error("POOL_SIZE must be at least 1")]
    PoolSize,
    #[error("no trusted certificates: {0}")]
    Certificates(String),
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    #[error("the pool cannot be built: {0}")]
    Pool(String),
}

/// How the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// `disable`, `prefer`, `require`: not at all, as libpq does.
    None,
    /// `verify-ca`: the chain, not the name.
    Chain,
    /// `verify-full`: chain and host name.
    Full,
}

#[derive(Debug, Clone)]
pub(super) struct TlsPolicy {
    pub(super) check: Check,
    /// PEM file of the trusted roots, instead of the system's.
    pub(super) root_file: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) struct Target {
    pub(super) config: Config,
    pub(super) tls: TlsPolicy,
}

fn present(value: Option<&String>) -> Option<&str> {
    value.map(|text| text.trim()).filter(|text| !text.is_empty())
}

impl DbOptions {
    /// Settings for one URL, with a small pool.
    pub fn of_url(url: &str) -> Self {
        Self {
            database_url: Some(url.to_owned()),
            db_url: None,
            postgres_host: None,
            postgres_port: None,
            postgres_db: None,
            postgres_user: None,
            postgres_password: None,
            pool_size: 8,
        }
    }

    /// Whether enough is given to say where the database is.
    pub fn is_complete(&self) -> bool {
        self.url().is_some()
            || (present(self.postgres_host.as_ref()).is_some()
                && present(self.postgres_password.as_ref()).is_some())
    }

    /// What of these settings must never be shown.
    pub fn secrets(&self) -> Vec<String> {
        let of_url = self.url().and_then(domain::redact::url_password);
        of_url.into_iter().chain(self.postgres_password.clone()).collect()
    }

    fn url(&self) -> Option<&str> {
        present(self.database_url.as_ref()).or(present(self.db_url.as_ref()))
    }

    pub(super) fn target(&self) -> Result<Target, DbOptionsError> {
        if self.pool_size == 0 {
            return Err(DbOptionsError::PoolSize);
        }
        let mut target = match self.url() {
            Some(url) => from_url(url)?,
            None => self.parts()?,
        };
        let config = &mut target.config;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(TCP_USER_TIMEOUT);
        }
        if config.get_application_name().is_none() {
            config.application_name("agent-runtime");
        }
        config.keepalives_idle(KEEPALIVE_IDLE);
        Ok(target)
    }

    fn parts(&self) -> Result<Target, DbOptionsError> {
        let host = present(self.postgres_host.as_ref()).ok_or(DbOptionsError::Missing)?;
        let password = present(self.postgres_password.as_ref()).ok_or(DbOptionsError::Missing)?;
        let port = present(self.postgres_port.as_ref()).unwrap_or("5432");
        let mut config = Config::new();
        config
            .host(host)
            .port(port.parse().map_err(|_| DbOptionsError::Port)?)
            .dbname(present(self.postgres_db.as_ref()).unwrap_or("agents"))
            .user(present(self.postgres_user.as_ref()).unwrap_or("postgres"))
            .password(password);
        let tls = TlsPolicy {
            check: Check::None,
            root_file: None,
        };
        Ok(Target { config, tls })
    }
}

/// tokio-postgres knows neither the verifying modes nor `sslrootcert`: both are taken out of the text first.
fn from_url(url: &str) -> Result<Target, DbOptionsError> {
    let (rest, found) = take_params(url);
    let mut policy = TlsPolicy {
        check: Check::None,
        root_file: None,
    };
    let mut mode = SslMode::Prefer;
    for (key, value) in found {
        if key == "sslrootcert" {
            policy.root_file = Some(PathBuf::from(value)).filter(|path| path.as_os_str() != "system");
            continue;
        }
        (mode, policy.check) = match value.as_str() {
            "disable" => (SslMode::Disable, Check::None),
            "allow" | "prefer" => (SslMode::Prefer, Check::None),
            "require" => (SslMode::Require, Check::None),
            "verify-ca" => (SslMode::Require, Check::Chain),
            "verify-full" => (SslMode::Require, Check::Full),
            _ => return Err(DbOptionsError::SslMode),
        };
    }
    let mut config: Config = rest.parse().map_err(|fault| DbOptionsError::Url(Some(fault)))?;
    if config.get_hosts().is_empty() {
        return Err(DbOptionsError::Url(None));
    }
    config.ssl_mode(mode);
    Ok(Target { config, tls: policy })
}

/// Splits `sslmode` and `sslrootcert` off a URL's query or a `key=value` text.
fn take_params(url: &str) -> (String, Vec<(String, String)>) {
    let is_url = url.contains("://");
    let (base, list) = match (is_url, url.split_once('?')) {
        (true, Some((base, query))) => (base, query),
        (true, None) => (url, ""),
        (false, _) => ("", url),
    };
    let separator = if is_url { '&' } else { ' ' };
    let mut kept = Vec::new();
    let mut found = Vec::new();
    for part in list.split(separator).filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some((key @ ("sslmode" | "sslrootcert"), value)) => {
                found.push((key.to_owned(), value.replace("%2F", "/").replace("%2f", "/")));
            }
            _ => kept.push(part),
        }
    }
    let kept = kept.join(&separator.to_string());
    let rest = match (is_url, kept.is_empty()) {
        (true, true) => base.to_owned(),
        (true, false) => format!("{base}?{kept}"),
        (false, _) => kept,
    };
    (rest, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> DbOptions {
        DbOptions::of_url(url)
    }

    #[test]
    fn each_sslmode_is_honoured_and_an_unknown_one_refused() {
        let mode = |mode: &str| {
            let target = options(&format!("postgres://u:p@h/db?sslmode={mode}&connect_timeout=3")).target();
            target.map(|target| (target.config.get_ssl_mode(), target.tls.check))
        };
        assert_eq!(mode("disable").unwrap(), (SslMode::Disable, Check::None));
        assert_eq!(mode("prefer").unwrap(), (SslMode::Prefer, Check::None));
        assert_eq!(mode("require").unwrap(), (SslMode::Require, Check::None));
        assert_eq!(mode("verify-ca").unwrap(), (SslMode::Require, Check::Chain));
        assert_eq!(mode("verify-full").unwrap(), (SslMode::Require, Check::Full));
        assert!(matches!(mode("strict"), Err(DbOptionsError::SslMode)));
    }

    #[test]
    fn an_empty_url_counts_as_absent_and_parts_have_their_defaults() {
        let mut parts = options("  ");
        assert!(!parts.is_complete());
        assert!(matches!(parts.target(), Err(DbOptionsError::Missing)));
        parts.postgres_host = Some("db".into());
        parts.postgres_password = Some("secret".into());
        let target = parts.target().unwrap();
        assert_eq!(target.config.get_ports(), [5432]);
        assert_eq!(target.config.get_dbname(), Some("agents"));
        assert_eq!(target.config.get_user(), Some("postgres"));
        assert!(!format!("{parts:?}").contains("secret"));
    }
}
