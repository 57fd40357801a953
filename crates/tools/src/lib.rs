//! Tools that reach other systems: search, fetch, browser, connectors, MCP servers.
//!
//! One [`Tools`] per worker, made of settings; one [`RunTools`] per drive of a run, which knows what that run may use.
//! Credentials stay here: they go into requests to the vendor they belong to, never into a result, a log or a sandbox.
//! Whatever a model or a page can point at is dialled through `outbound`'s guard; addresses that the operator set are
//! trusted. What other systems answer is hostile input: limited in size and time, told to the model as text.

pub mod browser;
mod clean;
mod connector;
mod fetch;
mod http;
mod input;
pub mod launch;
pub mod mcp;
mod options;
mod overview;
mod run;
mod search;
mod unconfigured;

pub use options::{SetupError, ToolOptions};
pub use overview::{ToolFault, ToolLine};
pub use run::{OfRun, RunTools, Tools};
