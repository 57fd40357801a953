//! Names to addresses: the system's resolver, or one of a test.

use futures::future::BoxFuture;
use std::io;
use std::net::IpAddr;

/// What a name leads to.
pub type Looked = io::Result<Vec<IpAddr>>;

/// Finds the addresses of a name. Implementations: the system's resolver, resolvers of tests.
pub trait Lookup: std::fmt::Debug + Send + Sync + 'static {
    fn addresses(&self, host: String) -> BoxFuture<'static, Looked>;
}

/// As the system does it.
#[derive(Debug, Clone, Copy)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn addresses(&self, host: String) -> BoxFuture<'static, Looked> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}
