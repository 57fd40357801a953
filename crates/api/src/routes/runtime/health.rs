//! Health of the internal listener; none of it needs authentication.

use super::Runtime;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Who this process says it is.
#[derive(Debug)]
pub struct Identity {
    /// `RUNTIME_SERVICE_NAME`.
    pub service: String,
    /// `RUNTIME_BUILD_SHA`.
    pub build_sha: String,
    pub started_at: Instant,
}

pub async fn healthz(State(runtime): State<Runtime>) -> Json<Value> {
    let identity = &runtime.identity;
    Json(json!({
        "status": "ok",
        "service": identity.service,
        "build_sha": identity.build_sha,
        "uptime_seconds": identity.started_at.elapsed().as_secs(),
        "authority_write_mode": runtime.write_mode.as_str(),
        "authority_writer_active": runtime.write_mode.may_write(),
    }))
}

/// Projections are written in the authority's own transactions and workers are rows of the same store: both are
/// ready when it is.
pub async fn readyz(State(runtime): State<Runtime>) -> Response {
    let checks = runtime.health.checks().await;
    let store = checks.is_some_and(|checks| checks.store_ready());
    let ready = store && !runtime.health.stopping();
    let body = json!({
        "status": if ready { "ready" } else { "not_ready" },
        "authority_ready": store,
        "projector_ready": store,
        "workers_ready": store,
        "authority_writer_active": runtime.write_mode.may_write(),
    });
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(body)).into_response()
}

pub async fn health(State(runtime): State<Runtime>) -> Json<Value> {
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({"status": "ok", "service": runtime.identity.service, "version": version}))
}
