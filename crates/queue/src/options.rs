//! Settings of the Redis side: `REDIS_URL` or `DRAGONFLY_*`, `REDIS_CA_FILE`, `QUEUE_PREFIX`.

use crate::endpoint::{Endpoint, Layout};
use crate::error::QueueError;
use std::fmt;
use std::path::PathBuf;

const DEFAULT_PREFIX: &str = "jobs";
const DEFAULT_PORT: u16 = 6379;

/// Where Redis is and what our keys are called. Empty values count as absent.
#[derive(Clone, Default, clap::Args)]
pub struct RedisOptions {
    /// redis://, rediss://, redis-sentinel://h:p,h:p/service or redis-cluster://h:p,h:p
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<String>,
    /// Host of a Redis-compatible server, when REDIS_URL is not set
    #[arg(long, env = "DRAGONFLY_HOST")]
    pub dragonfly_host: Option<String>,
    /// Port of that server [default: 6379]
    #[arg(long, env = "DRAGONFLY_PORT")]
    pub dragonfly_port: Option<String>,
    /// Password of that server
    #[arg(long, env = "DRAGONFLY_PASSWORD", hide_env_values = true)]
    pub dragonfly_password: Option<String>,
    /// PEM file with the certificate authorities of a rediss:// server [default: the system's]
    #[arg(long, env = "REDIS_CA_FILE")]
    pub redis_ca_file: Option<String>,
    /// First part of all queue keys [default: jobs]; {jobs} for Redis Cluster
    #[arg(long, env = "QUEUE_PREFIX")]
    pub queue_prefix: Option<String>,
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("queue_prefix", &self.prefix())
            .finish_non_exhaustive()
    }
}

/// What is wrong with the settings, as text pieces for `missing required settings: …` and `invalid settings: …`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingFaults {
    pub missing: Vec<String>,
    pub invalid: Vec<String>,
}

impl SettingFaults {
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.invalid.is_empty()
    }
}

fn given(value: Option<&String>) -> Option<&str> {
    value.map(String::as_str).filter(|text| !text.is_empty())
}

impl RedisOptions {
    /// Options for one URL and all else by default.
    pub fn for_url(url: impl Into<String>) -> Self {
        Self {
            redis_url: Some(url.into()),
            ..Self::default()
        }
    }

    /// All faults at once, without asking the server.
    pub fn validate(&self) -> SettingFaults {
        let mut faults = SettingFaults::default();
        match self.endpoint() {
            Err(EndpointFault::Missing) => faults.missing.push("REDIS_URL (or DRAGONFLY_HOST)".to_owned()),
            Err(EndpointFault::Invalid(text)) => faults.invalid.push(text),
            Ok(endpoint) => {
                if matches!(endpoint.layout, Layout::Cluster(_)) && !has_hash_tag(self.prefix()) {
                    faults.invalid.push(plain_prefix_in_cluster(self.prefix()));
                }
            }
        }
        if let Some(path) = self.ca_file()
            && let Err(fault) = crate::tls::read_roots(&path)
        {
            faults.invalid.push(format!("REDIS_CA_FILE ({fault})"));
        }
        let prefix = self.prefix();
        if prefix.contains(char::is_whitespace) || prefix.len() > 100 {
            faults
                .invalid
                .push("QUEUE_PREFIX (no blanks, at most 100 bytes)".to_owned());
        }
        faults
    }

    /// What of these settings must never be shown.
    pub fn secrets(&self) -> Vec<String> {
        let of_url = given(self.redis_url.as_ref()).and_then(domain::redact::url_password);
        of_url
            .into_iter()
            .chain(self.dragonfly_password.clone())
            .collect()
    }

    /// First part of all queue keys.
    pub fn prefix(&self) -> &str {
        given(self.queue_prefix.as_ref()).unwrap_or(DEFAULT_PREFIX)
    }

    pub(crate) fn ca_file(&self) -> Option<PathBuf> {
        given(self.redis_ca_file.as_ref()).map(PathBuf::from)
    }

    pub(crate) fn checked_endpoint(&self) -> Result<Endpoint, QueueError> {
        let faults = self.validate();
        if !faults.is_empty() {
            let all = [faults.missing, faults.invalid].concat();
            return Err(QueueError::Settings(all));
        }
        self.endpoint()
            .map_err(|fault| QueueError::Settings(vec![fault.to_string()]))
    }

    fn endpoint(&self) -> Result<Endpoint, EndpointFault> {
        if let Some(url) = given(self.redis_url.as_ref()) {
            return Endpoint::parse(url)
                .map_err(|fault| EndpointFault::Invalid(format!("REDIS_URL ({fault})")));
        }
        let host = given(self.dragonfly_host.as_ref()).ok_or(EndpointFault::Missing)?;
        let port = match given(self.dragonfly_port.as_ref()) {
            None => DEFAULT_PORT,
            Some(port) => port
                .parse()
                .map_err(|_| EndpointFault::Invalid("DRAGONFLY_PORT (no port number)".to_owned()))?,
        };
        Ok(Endpoint::single(
            host,
            port,
            given(self.dragonfly_password.as_ref()),
        ))
    }
}

#[derive(Debug, thiserror::Error)]
enum EndpointFault {
    #[error("REDIS_URL (or DRAGONFLY_HOST)")]
    Missing,
    #[error("{0}")]
    Invalid(String),
}

/// All keys of a queue must be in one slot of a cluster: the prefix needs a `{tag}`.
pub(crate) fn has_hash_tag(prefix: &str) -> bool {
    prefix
        .split_once('{')
        .and_then(|(_, rest)| rest.split_once('}'))
        .is_some_and(|(tag, _)| !tag.is_empty())
}

pub(crate) fn plain_prefix_in_cluster(prefix: &str) -> String {
    format!("QUEUE_PREFIX (the server is a cluster: use {{{prefix}}} instead of {prefix})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_value_counts_as_absent() {
        let options = RedisOptions {
            redis_url: Some(String::new()),
            dragonfly_host: Some("df".to_owned()),
            dragonfly_port: Some(String::new()),
            dragonfly_password: Some(String::new()),
            ..RedisOptions::default()
        };
        assert_eq!(options.validate(), SettingFaults::default());
        assert_eq!(
            options.checked_endpoint().unwrap(),
            Endpoint::single("df", 6379, None)
        );
    }

    #[test]
    fn missing_and_invalid_settings_are_named() {
        let faults = RedisOptions::default().validate();
        assert_eq!(faults.missing, ["REDIS_URL (or DRAGONFLY_HOST)"]);
        let faults = RedisOptions::for_url("http://h").validate();
        assert_eq!(faults.invalid, ["REDIS_URL (unknown scheme)"]);
    }

    #[test]
    fn a_cluster_needs_a_prefix_with_a_hash_tag() {
        let mut options = RedisOptions::for_url("redis-cluster://a:1,b:1");
        assert_eq!(
            options.validate().invalid,
            ["QUEUE_PREFIX (the server is a cluster: use {jobs} instead of jobs)"]
        );
        options.queue_prefix = Some("{jobs}".to_owned());
        assert!(options.validate().is_empty());
    }
}
