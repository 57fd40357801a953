//! Addresses of the store: from `/etc/hosts` first, where pods without DNS have them.
//!
//! Read by ourselves, because the C library of a static program may look for parts of another one to do it.

use std::net::{IpAddr, SocketAddr};
use ureq::Error;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

const HOSTS: &str = "/etc/hosts";
/// As many as the answer has room for.
const MAX_ADDRESSES: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Names(DefaultResolver);

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let host = uri.host().ok_or(Error::HostNotFound)?;
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let hosts = std::fs::read_to_string(HOSTS).unwrap_or_default();
        let known = addresses(&hosts, host);
        if known.is_empty() {
            return self.0.resolve(uri, config, timeout);
        }
        let mut found = self.empty();
        for address in known.into_iter().take(MAX_ADDRESSES) {
            found.push(SocketAddr::new(address, port));
        }
        Ok(found)
    }
}

/// A literal address, or what the file says about a name.
fn addresses(hosts: &str, host: &str) -> Vec<IpAddr> {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = literal.parse() {
        return vec![address];
    }
    let line = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words
            .any(|name| name.eq_ignore_ascii_case(host))
            .then_some(address)
    };
    hosts.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hosts_file_need_no_server() {
        let hosts = "127.0.0.1 localhost\n# 10.0.0.1 s3.test\n10.0.0.2\ts3.test other # more\nfd00::2 S3.test\nbad s3.test\n";
        let found = |host| {
            addresses(hosts, host)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(found("s3.test"), ["10.0.0.2", "fd00::2"]);
        assert_eq!(found("127.0.0.9"), ["127.0.0.9"]);
        assert_eq!(found("[::1]"), ["::1"]);
        assert!(found("more").is_empty() && found("nobody").is_empty());
    }
}
