//! Liveness looks at the process only; readiness at what it depends on.

use crate::state::App;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};

pub async fn health(State(app): State<App>) -> Json<Value> {
    Json(json!({"status": "healthy", "version": &*app.health.version, "service": "agent-api"}))
}

pub async fn healthz() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

pub async fn ready(State(app): State<App>) -> Response {
    let (ready, body) = app.health.readiness().await;
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(body)).into_response()
}

/// Prometheus text.
pub async fn metrics() -> Response {
    let text = bootstrap::telemetry::metrics().render();
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}
