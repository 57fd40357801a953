//! The guard: what may be dialled, and clients that dial nothing else.

use crate::address::is_public;
use crate::resolve::{Lookup, SystemLookup};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, ClientBuilder, Url};
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Redirects that are followed in a row.
pub const MAX_REDIRECTS: usize = 5;

/// Why nothing was dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Of an inner network, of this machine, or of no network at all; also a name that leads to one.
    #[error("Address not allowed")]
    Address,
    #[error("Address not allowed: only http and https")]
    Scheme,
    #[error("Address not allowed: user name or password in it")]
    Userinfo,
    #[error("Address not allowed: no host")]
    NoHost,
    #[error("Address not allowed: redirect to another host")]
    Elsewhere,
    #[error("Address not allowed: more than {MAX_REDIRECTS} redirects")]
    Redirects,
}

/// Where a client may be sent on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirects {
    /// Wherever the guard allows.
    Checked,
    /// Within scheme, host and port: for requests with credentials in headers.
    SameOrigin,
    /// Nowhere: the answer is the redirect.
    No,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    host: String,
    port: u16,
}

/// What may be dialled. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Guard {
    allow_private: bool,
    trusted: Arc<[Origin]>,
    lookup: Arc<dyn Lookup>,
}

impl Guard {
    /// Public addresses only; with `allow_private` every address.
    pub fn new(allow_private: bool) -> Self {
        Self {
            allow_private,
            trusted: Arc::from([]),
            lookup: Arc::new(SystemLookup),
        }
    }

    /// With these addresses of the operator's allowed besides, each at its own port, wherever they lead.
    #[must_use]
    pub fn trusting<'a>(mut self, urls: impl IntoIterator<Item = &'a Url>) -> Self {
        self.trusted = self
            .trusted
            .iter()
            .cloned()
            .chain(urls.into_iter().filter_map(origin))
            .collect();
        self
    }

    /// With names found another way.
    #[must_use]
    pub fn with_lookup(mut self, lookup: Arc<dyn Lookup>) -> Self {
        self.lookup = lookup;
        self
    }

    /// Judges an address as far as its text goes. A name is judged when it is resolved, by the clients made here.
    pub fn check(&self, url: &Url) -> Result<(), Refused> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Userinfo);
        }
        let origin = origin(url).ok_or(Refused::NoHost)?;
        self.check_origin(&origin)
    }

    fn check_origin(&self, origin: &Origin) -> Result<(), Refused> {
        if self.allow_private || self.trusted.contains(origin) {
            return Ok(());
        }
        // Its name may lead inside, which is meant for the operator's port alone.
        if self.trusts_host(&origin.host) || is_local_name(&origin.host) {
            return Err(Refused::Address);
        }
        match literal(&origin.host) {
            Some(address) if !is_public(address) => Err(Refused::Address),
            _ => Ok(()),
        }
    }

    fn trusts_host(&self, host: &str) -> bool {
        self.trusted.iter().any(|trusted| trusted.host == host)
    }

    /// The addresses to dial for a host (a name, or an address as text) and port: all allowed, or none.
    ///
    /// # Errors
    /// The host is refused, or has no address.
    pub async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        let host = plain(host);
        let origin = Origin { host, port };
        self.check_origin(&origin)?;
        let found = match literal(&origin.host) {
            Some(address) => vec![address],
            None => self.resolved(&origin.host).await?,
        };
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    /// One forbidden answer spoils all: which of them a client takes is not ours to choose.
    async fn resolved(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let found = self.lookup.addresses(host.to_owned()).await?;
        if found.is_empty() {
            return Err(ResolveError::Lookup(std::io::Error::other("no address found")));
        }
        let free = self.allow_private || self.trusts_host(host);
        if !free && found.iter().any(|address| !is_public(*address)) {
            tracing::debug!(host, "a name led to an address that is not allowed");
            return Err(Refused::Address.into());
        }
        Ok(found)
    }

    /// A client that resolves by this guard, follows redirects by it and asks no proxy of the system. The first address of
    /// each request must have passed [`Guard::check`]: an address given as digits is not resolved.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn client(&self, builder: ClientBuilder, redirects: Redirects) -> reqwest::Result<Client> {
        let guard = self.clone();
        let policy = match redirects {
            Redirects::No => Policy::none(),
            Redirects::Checked => Policy::custom(move |attempt| follow(&guard, attempt, |_, _| true)),
            Redirects::SameOrigin => Policy::custom(move |attempt| {
                follow(&guard, attempt, |from, to| from.origin() == to.origin())
            }),
        };
        builder
            .no_proxy()
            .redirect(policy)
            .dns_resolver(GuardedDns(self.clone()))
            .build()
    }
}

fn follow(guard: &Guard, attempt: Attempt<'_>, also: fn(&Url, &Url) -> bool) -> reqwest::redirect::Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error(Refused::Redirects);
    }
    if let Err(refused) = guard.check(attempt.url()) {
        return attempt.error(refused);
    }
    match attempt.previous().last() {
        Some(from) if also(from, attempt.url()) => attempt.follow(),
        _ => attempt.error(Refused::Elsewhere),
    }
}

/// Why a host has no address to dial.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("name not resolved: {0}")]
    Lookup(#[from] std::io::Error),
}

/// Ports are put in by the client.
#[derive(Debug)]
struct GuardedDns(Guard);

impl Resolve for GuardedDns {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let found = guard.resolved(&plain(name.as_str())).await?;
            let found = found.into_iter().map(|ip| SocketAddr::new(ip, 0));
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

/// The guard's refusal behind a client's error, if it is one.
pub fn refusal_in(error: &(dyn Error + 'static)) -> Option<Refused> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(refused) = error.downcast_ref::<Refused>() {
            return Some(*refused);
        }
        if let Some(ResolveError::Refused(refused)) = error.downcast_ref() {
            return Some(*refused);
        }
        next = error.source();
    }
    None
}

fn origin(url: &Url) -> Option<Origin> {
    let host = url.host_str().filter(|host| !host.is_empty())?;
    Some(Origin {
        host: plain(host),
        port: url.port_or_known_default()?,
    })
}

/// One spelling of a host: small letters, no brackets, no final dot.
fn plain(host: &str) -> String {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.trim_end_matches('.').to_ascii_lowercase()
}

fn literal(host: &str) -> Option<IpAddr> {
    host.parse().ok()
}

/// Names that never lead outside, whatever a resolver says.
fn is_local_name(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}
