//! The internal surface: `/internal/v1` and its health routes, on a listener of its own.
//!
//! Authentication comes before every other check under `/internal/v1`, unknown paths and methods included. Refusals are
//! `{"error","message"}`.

pub mod access;
pub mod body;
pub mod carried;
pub mod edge;
pub mod figures;
pub mod health;
pub mod recordings;
pub mod refusal;
pub mod runs;
pub mod signature;
pub mod table;
pub mod workers;

pub use access::{Access, Signed};
pub use health::Identity;

use crate::config::WriteMode;
use crate::delivery::Delivery;
use crate::health::Health;
use ::runs::{RuntimeRuns, Workers};
use axum::Router;
use axum::middleware::from_fn_with_state;
use domain::Ids;
use refusal::Refusal;
use std::sync::Arc;

/// The parts of the internal surface. Cheap clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub access: Arc<Access>,
    pub identity: Arc<Identity>,
    pub runs: RuntimeRuns,
    pub workers: Workers,
    pub delivery: Delivery,
    pub health: Health,
    pub write_mode: WriteMode,
    pub max_body_bytes: usize,
    pub ids: Arc<dyn Ids>,
}

/// The internal surface with its edge.
pub fn router(runtime: Runtime) -> Router {
    table::routes()
        .fallback(async || Refusal::not_found())
        .method_not_allowed_fallback(async || Refusal::method_not_allowed())
        .layer(from_fn_with_state(runtime.clone(), access::guard))
        .layer(from_fn_with_state(runtime.clone(), edge::handle))
        .with_state(runtime)
}
