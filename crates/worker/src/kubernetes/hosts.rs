//! Addresses of the object store: pods have no name service, so the worker tells them.

use crate::workspace::StoreOptions;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Answers are used again for this long.
const AGE: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(5);
/// Most addresses that are handed on.
const MOST: usize = 8;

type Resolved = Vec<(String, String)>;

/// The store's host. Clones share what was found.
#[derive(Debug, Clone, Default)]
pub(super) struct Hosts {
    /// Nothing when the address has no name.
    name: Option<String>,
    port: u16,
    found: Arc<Mutex<Option<(Instant, Resolved)>>>,
}

impl Hosts {
    /// `None` when the endpoint is not a URL.
    pub(super) fn of(store: &StoreOptions) -> Option<Self> {
        let url = reqwest::Url::parse(&store.s3_endpoint).ok()?;
        let host = url.host_str()?.trim_matches(['[', ']']);
        let name = host.parse::<IpAddr>().is_err().then(|| {
            if store.s3_force_path_style {
                host.to_owned()
            } else {
                format!("{}.{host}", store.s3_workspace_bucket)
            }
        });
        Some(Self {
            name,
            port: url.port_or_known_default()?,
            found: Arc::default(),
        })
    }

    /// Address and name, for each address. What was found before is used when the name service is away.
    pub(super) async fn resolve(&self) -> Result<Resolved, String> {
        let Some(name) = &self.name else {
            return Ok(vec![]);
        };
        let known = self.known();
        if let Some((at, found)) = &known
            && at.elapsed() < AGE
        {
            return Ok(found.clone());
        }
        let asked = tokio::time::timeout(LIMIT, tokio::net::lookup_host((name.as_str(), self.port))).await;
        let why = match asked {
            Ok(Ok(addresses)) => {
                let mut ips: Vec<IpAddr> = addresses.map(|address| address.ip()).collect();
                ips.sort_unstable();
                ips.dedup();
                let found: Resolved = ips
                    .iter()
                    .take(MOST)
                    .map(|ip| (ip.to_string(), name.clone()))
                    .collect();
                if !found.is_empty() {
                    *self.found.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some((Instant::now(), found.clone()));
                    return Ok(found);
                }
                "no address".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", LIMIT.as_secs()),
        };
        match known {
            Some((_, found)) => {
                tracing::warn!(
                    name,
                    why,
                    "the object store's address cannot be looked up, the last one is used"
                );
                Ok(found)
            }
            None => Err(format!("the address of {name} cannot be looked up: {why}")),
        }
    }

    fn known(&self) -> Option<(Instant, Resolved)> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(endpoint: &str, path_style: bool) -> Option<Hosts> {
        Hosts::of(&StoreOptions {
            s3_endpoint: endpoint.to_owned(),
            s3_workspace_bucket: "bucket".to_owned(),
            s3_region: "r".to_owned(),
            s3_access_key: None,
            s3_secret_key: None,
            s3_force_path_style: path_style,
        })
    }

    #[tokio::test]
    async fn names_are_told_with_their_addresses_and_addresses_need_no_name() {
        let local = hosts("http://localhost:9000", true).unwrap();
        let found = local.resolve().await.unwrap();
        assert!(
            found
                .iter()
                .any(|(ip, name)| (ip == "127.0.0.1" || ip == "::1") && name == "localhost")
        );
        for address in ["http://127.0.0.1:9000", "http://[::1]:9000"] {
            assert_eq!(hosts(address, true).unwrap().resolve().await, Ok(vec![]));
        }
        let virtual_host = hosts("https://s3.example", false).unwrap();
        assert_eq!(virtual_host.name.as_deref(), Some("bucket.s3.example"));
        assert!(hosts("not a url", true).is_none());
    }
}
