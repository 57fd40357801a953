//! `REDIS_URL` in its five schemes, parsed without IO.

use percent_encoding::percent_decode_str;
use std::fmt;

/// How the server is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Layout {
    Single(Host),
    Sentinel { sentinels: Vec<Host>, service: String },
    Cluster(Vec<Host>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) port: u16,
}

/// A parsed `REDIS_URL`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) layout: Layout,
    pub(crate) tls: bool,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) database: Option<u8>,
}

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
/// Upstash speaks TLS on its `redis://` addresses too.
const TLS_ONLY_DOMAIN: &str = "upstash.io";

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("layout", &self.layout)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// A single server as `DRAGONFLY_HOST`, `_PORT` and `_PASSWORD` name it.
    pub(crate) fn single(host: &str, port: u16, password: Option<&str>) -> Self {
        Self {
            layout: Layout::Single(Host {
                name: host.to_owned(),
                port,
            }),
            tls: is_tls_only(host),
            username: None,
            password: password.map(str::to_owned),
            database: None,
        }
    }

    /// Parses a URL; the error says what is wrong without repeating the URL, which may hold a password.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or("no scheme such as redis://".to_owned())?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials), hosts),
            None => (None, authority),
        };
        let (username, password) = credentials.map_or(Ok((None, None)), parse_credentials)?;
        let endpoint = |layout, tls, database| Self {
            layout,
            tls,
            username,
            password,
            database,
        };
        match scheme {
            "redis" | "rediss" => {
                let host = parse_host(hosts, REDIS_PORT)?;
                let tls = scheme == "rediss" || is_tls_only(&host.name);
                Ok(endpoint(Layout::Single(host), tls, parse_database(path)?))
            }
            "redis-cluster" | "rediss-cluster" => {
                let hosts = parse_hosts(hosts, REDIS_PORT)?;
                Ok(endpoint(Layout::Cluster(hosts), scheme == "rediss-cluster", None))
            }
            "redis-sentinel" | "rediss-sentinel" => {
                let (service, database) = path.split_once('/').unwrap_or((path, ""));
                if service.is_empty() {
                    return Err("no service name behind the sentinels".to_owned());
                }
                let layout = Layout::Sentinel {
                    sentinels: parse_hosts(hosts, SENTINEL_PORT)?,
                    service: decode(service)?,
                };
                Ok(endpoint(
                    layout,
                    scheme == "rediss-sentinel",
                    parse_database(database)?,
                ))
            }
            _ => Err("unknown scheme".to_owned()),
        }
    }
}

fn is_tls_only(host: &str) -> bool {
    host == TLS_ONLY_DOMAIN
        || host
            .strip_suffix(TLS_ONLY_DOMAIN)
            .is_some_and(|rest| rest.ends_with('.'))
}

fn decode(text: &str) -> Result<String, String> {
    percent_decode_str(text)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| "bad percent encoding".to_owned())
}

fn parse_credentials(text: &str) -> Result<(Option<String>, Option<String>), String> {
    let (username, password) = text.split_once(':').unwrap_or((text, ""));
    let some = |text: String| (!text.is_empty()).then_some(text);
    Ok((some(decode(username)?), some(decode(password)?)))
}

fn parse_hosts(text: &str, default_port: u16) -> Result<Vec<Host>, String> {
    text.split(',')
        .map(|host| parse_host(host, default_port))
        .collect()
}

fn parse_host(text: &str, default_port: u16) -> Result<Host, String> {
    let (name, port) = match text.strip_prefix('[') {
        Some(v6) => {
            let (name, port) = v6
                .split_once(']')
                .ok_or("unclosed bracket in the host".to_owned())?;
            (name, port.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    if name.is_empty() {
        return Err("no host".to_owned());
    }
    let port = match port {
        None => default_port,
        Some(port) => port.parse().map_err(|_| "bad port".to_owned())?,
    };
    Ok(Host {
        name: name.to_owned(),
        port,
    })
}

fn parse_database(text: &str) -> Result<Option<u8>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| "bad database number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, port: u16) -> Host {
        Host {
            name: name.to_owned(),
            port,
        }
    }

    fn parse(url: &str) -> Endpoint {
        match Endpoint::parse(url) {
            Ok(endpoint) => endpoint,
            Err(fault) => panic!("{url}: {fault}"),
        }
    }

    #[test]
    fn all_schemes_are_understood() {
        let one = parse("redis://user:p%40ss@db.local:7000/2");
        assert_eq!(one.layout, Layout::Single(host("db.local", 7000)));
        assert_eq!(
            (one.username.as_deref(), one.password.as_deref()),
            (Some("user"), Some("p@ss"))
        );
        assert_eq!((one.tls, one.database), (false, Some(2)));
        assert!(parse("rediss://h").tls);
        assert_eq!(parse("redis://[::1]:7").layout, Layout::Single(host("::1", 7)));
        let sentinel = parse("redis-sentinel://:pw@a:1,b/main");
        assert_eq!(
            sentinel.layout,
            Layout::Sentinel {
                sentinels: vec![host("a", 1), host("b", 26379)],
                service: "main".to_owned()
            }
        );
        assert_eq!(sentinel.password.as_deref(), Some("pw"));
        let cluster = parse("redis-cluster://a:1,b:2");
        assert_eq!(cluster.layout, Layout::Cluster(vec![host("a", 1), host("b", 2)]));
    }

    #[test]
    fn upstash_hosts_are_contacted_over_tls() {
        assert!(parse("redis://x.upstash.io:6379").tls);
        assert!(!parse("redis://notupstash.io").tls);
    }

    #[test]
    fn faults_name_the_part_and_never_the_password() {
        for url in [
            "localhost:6379",
            "http://h",
            "redis://",
            "redis://:secret@h:port",
            "redis://h/one",
            "redis-sentinel://h:1",
        ] {
            let fault = Endpoint::parse(url).err().unwrap();
            assert!(!fault.contains("secret"), "{fault}");
        }
    }
}
