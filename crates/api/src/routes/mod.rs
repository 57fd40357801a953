//! The routes of the public surface, one module per resource.

pub mod debug;
pub mod effects;
pub mod events;
pub mod execute;
pub mod health;
pub mod logs;
pub mod runtime;
pub mod status;
pub mod stream;
pub mod thinking;
pub mod ticket;

use crate::edge::{self, Edge};
use crate::error::Problem;
use crate::state::App;
use axum::Router;
use axum::routing::{get, post};

/// The public surface with its edge.
pub fn public(app: App, edge: Edge) -> Router {
    Router::new()
        .route("/health", get(health::health))
        .route("/healthz", get(health::healthz))
        .route("/ready", get(health::ready))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/agent/execute", post(execute::execute))
        .route("/agent/status", post(status::status))
        .route("/agent/logs", get(logs::logs))
        .route("/agent/logs/{run_id}/stream", get(stream::default_form))
        .route("/agent/run/{run_id}/stream", get(stream::named_form))
        .route("/agent/run/{run_id}/events", get(events::events))
        .route("/agent/run/{run_id}/thinking", post(thinking::think))
        .route("/agent/run/{run_id}/ticket", post(ticket::issue))
        .route("/agent/run/{run_id}", get(status::one))
        .route("/agent/run/{run_id}/effects", get(effects::list))
        .route("/agent/run/{run_id}/effects/{step_id}", post(effects::settle))
        .route("/debug/worker-status", get(debug::worker_status))
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(axum::middleware::from_fn_with_state(edge, edge::handle))
        .with_state(app)
}
