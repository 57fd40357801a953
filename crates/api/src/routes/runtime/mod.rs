//! The internal surface: `/internal/v1` and its health routes, on a listener of its own.
//!
//! Authentication comes before every other check under `/internal/v1`, unknown paths and methods included. Refusals are
//! `{"error","message"}`.

pub mod access;
pub mod body;
pub mod edge;
pub mod health;
pub mod recordings;
pub mod refusal;
pub mod runs;
pub mod workers;

pub use access::Access;
pub use health::Identity;

use crate::config::WriteMode;
use crate::delivery::Delivery;
use crate::health::Health;
use ::runs::{RuntimeRuns, Workers};
use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
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
    Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(super::health::metrics))
        .route("/internal/v1/health", get(health::health))
        .route("/internal/v1/runs", post(runs::create))
        .route("/internal/v1/runs/{run_id}", get(runs::get))
        .route("/internal/v1/runs/{run_id}/events", post(runs::append))
        .route("/internal/v1/runs/{run_id}/receipt", get(recordings::receipt))
        .route("/internal/v1/runs/{run_id}/replay", get(recordings::replay))
        .route(
            "/internal/v1/projectors/checkpoints/{run_id}",
            get(runs::checkpoint),
        )
        .route("/internal/v1/projectors/run-summary/{run_id}", get(runs::summary))
        .route("/internal/v1/projectors/drift", get(runs::drift))
        .route("/internal/v1/workers", post(workers::register))
        .route("/internal/v1/workers/{worker_id}", get(workers::get))
        .route(
            "/internal/v1/workers/{worker_id}/checkpoint",
            get(workers::checkpoint),
        )
        .route(
            "/internal/v1/workers/{worker_id}/heartbeat",
            post(workers::heartbeat),
        )
        .route("/internal/v1/workers/{worker_id}/status", post(workers::status))
        .fallback(async || Refusal::not_found())
        .method_not_allowed_fallback(async || Refusal::method_not_allowed())
        .layer(from_fn_with_state(runtime.clone(), access::guard))
        .layer(from_fn_with_state(runtime.clone(), edge::handle))
        .with_state(runtime)
}
