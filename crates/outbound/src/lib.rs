//! Connections to the outside that cannot be led to inner addresses.
//!
//! Everything that dials where a model, a page or a stranger pointed goes through a [`Guard`]. The address that is checked
//! is the one that is dialled: names are resolved here, once, and an answer with any forbidden address is refused whole,
//! so a name that changes its address between check and connection leads nowhere. Addresses that the operator set are
//! trusted, each at its own port only.

mod address;
mod body;
mod guard;
mod proxy;
mod resolve;

pub use address::is_public;
pub use body::{Body, BodyError, read_body};
pub use guard::{Guard, MAX_REDIRECTS, Redirects, Refused, ResolveError, refusal_in};
pub use proxy::{GuardedProxy, ProxyService};
pub use resolve::{Looked, Lookup, SystemLookup};
