//! What the server says of itself at start: is it fit to hold a queue?

use crate::connection::measured;
use crate::error::QueueError;
use crate::options::{has_hash_tag, plain_prefix_in_cluster};
use crate::queue::Queue;
use fred::error::{Error as FredError, ErrorKind};
use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::timeout;

/// LMOVE and the blocking forms we use came with this version.
const OLDEST_VERSION: (u32, u32) = (6, 2);

/// Longest wait for a connection and its answer, and for its goodbye.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Between two tries to ask a server that is away.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Facts from `INFO`; nothing where the server keeps silent (managed services do).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerReport {
    pub version: Option<String>,
    pub maxmemory_policy: Option<String>,
    pub maxmemory_bytes: Option<u64>,
    pub append_only_file: Option<bool>,
    pub cluster: bool,
    prefix: String,
}

impl ServerReport {
    fn parse(info: &str, prefix: &str) -> Self {
        let fields: HashMap<&str, &str> = info
            .lines()
            .filter_map(|line| line.trim_end().split_once(':'))
            .collect();
        let text = |name: &str| fields.get(name).map(|value| (*value).to_owned());
        let yes = |name: &str| fields.get(name).map(|value| *value == "1");
        Self {
            version: text("redis_version"),
            maxmemory_policy: text("maxmemory_policy"),
            maxmemory_bytes: fields.get("maxmemory").and_then(|bytes| bytes.parse().ok()),
            append_only_file: yes("aof_enabled"),
            cluster: yes("cluster_enabled").unwrap_or(false)
                || fields.get("redis_mode").is_some_and(|mode| *mode == "cluster"),
            prefix: prefix.to_owned(),
        }
    }

    /// What makes the server unusable, as pieces for `invalid settings: …` (exit 64).
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.cluster && !has_hash_tag(&self.prefix) {
            faults.push(plain_prefix_in_cluster(&self.prefix));
        }
        if let Some(version) = self.version.as_deref().filter(|version| is_too_old(version)) {
            faults.push(format!(
                "REDIS_URL (server version {version}, at least 6.2 is needed)"
            ));
        }
        faults
    }

    /// What an operator should put right, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(policy) = self
            .maxmemory_policy
            .as_deref()
            .filter(|policy| *policy != "noeviction")
        {
            warnings.push(format!(
                "maxmemory-policy is {policy}: Redis may throw away queue entries; set it to noeviction"
            ));
        }
        if self.append_only_file == Some(false) {
            warnings.push(
                "appendonly is off: after a restart of Redis the queue is rebuilt from Postgres".to_owned(),
            );
        }
        warnings
    }
}

fn is_too_old(version: &str) -> bool {
    let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
    match (parts.next(), parts.next()) {
        (Some(major), Some(minor)) => (major, minor) < OLDEST_VERSION,
        _ => false,
    }
}

impl Queue {
    /// Waits until the server tells about itself, logs a line for each warning, and gives the faults that make it
    /// unusable, as pieces for `invalid settings: …`. A server that refuses to tell counts as fit.
    pub async fn vet_server(&self) -> Vec<String> {
        loop {
            match self.server_report().await {
                Ok(report) => {
                    for warning in report.warnings() {
                        tracing::warn!(warning, "redis settings");
                    }
                    return report.faults();
                }
                Err(fault) if fault.is_unavailable() => tokio::time::sleep(ASK_AGAIN).await,
                Err(fault) => {
                    tracing::info!(error = %fault, "redis does not tell about its settings");
                    return Vec::new();
                }
            }
        }
    }

    /// Asks the server for its version, memory policy, persistence and cluster mode.
    pub async fn server_report(&self) -> Result<ServerReport, QueueError> {
        // A connection of its own: those in use break off again and again at a server that is a cluster by mistake.
        let client = self.store.connection().client().clone_new();
        let task = client.connect();
        let command = CustomCommand::new_static("INFO", ClusterHash::Random, false);
        let asked = async {
            client.wait_for_connect().await?;
            client.custom(command, Vec::<String>::new()).await
        };
        let late = |_| Err(FredError::new(ErrorKind::Timeout, "no answer in time"));
        let limited = async { timeout(ANSWER_LIMIT, asked).await.unwrap_or_else(late) };
        let info: Result<String, QueueError> = measured("info", limited).await;
        if timeout(ANSWER_LIMIT, client.quit()).await.is_err() {
            tracing::debug!("redis connection closed without a goodbye");
        }
        task.abort();
        Ok(ServerReport::parse(&info?, self.store.keys().prefix()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n# Persistence\r\naof_enabled:0\r\n# Cluster\r\ncluster_enabled:0\r\n";

    #[test]
    fn an_evicting_server_without_persistence_is_warned_about() {
        let report = ServerReport::parse(INFO, "jobs");
        assert_eq!(report.faults(), Vec::<String>::new());
        let warnings = report.warnings();
        assert!(warnings[0].contains("allkeys-lru"), "{warnings:?}");
        assert!(warnings[1].contains("appendonly"), "{warnings:?}");
    }

    #[test]
    fn a_cluster_with_a_plain_prefix_and_an_old_server_are_refused() {
        let cluster = INFO.replace("cluster_enabled:0", "cluster_enabled:1");
        assert_eq!(
            ServerReport::parse(&cluster, "jobs").faults(),
            ["QUEUE_PREFIX (the server is a cluster: use {jobs} instead of jobs)"]
        );
        assert!(ServerReport::parse(&cluster, "{jobs}").faults().is_empty());
        let old = INFO.replace("7.0.15", "6.0.9");
        assert_eq!(
            ServerReport::parse(&old, "jobs").faults(),
            ["REDIS_URL (server version 6.0.9, at least 6.2 is needed)"]
        );
    }
}
