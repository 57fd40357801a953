//! Liveness looks at the process only; readiness at what it depends on.

use crate::openapi::operator::{HealthAnswer, HealthzAnswer, ReadinessAnswer};
use crate::openapi::refusals::{Open, Readiness};
use crate::state::App;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::{Value, json};

/// The process lives.
#[utoipa::path(
    get,
    path = "/health",
    operation_id = "health",
    tag = "health",
    responses((status = 200, description = "The process lives", body = HealthAnswer), Open)
)]
pub async fn health(State(app): State<App>) -> Json<Value> {
    Json(json!({"status": "healthy", "version": &*app.health.version, "service": "agent-api"}))
}

/// The process lives, in short.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "healthz",
    tag = "health",
    responses((status = 200, description = "The process lives", body = HealthzAnswer), Open)
)]
pub async fn healthz() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// Readiness: the dependencies alone.
#[utoipa::path(
    get,
    path = "/ready",
    operation_id = "ready",
    tag = "health",
    responses((status = 200, description = "Ready", body = ReadinessAnswer), (status = 503, description = "Not ready, or shutting down", body = ReadinessAnswer), Readiness)
)]
pub async fn ready(State(app): State<App>) -> Response {
    let (ready, mut body) = app.health.readiness().await;
    if let Some(members) = body.as_object_mut() {
        members.remove("queue");
    }
    answer(ready, body)
}

/// Readiness: the dependencies, and what the queue looks like.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    tag = "health",
    responses((status = 200, description = "Ready", body = ReadinessAnswer), (status = 503, description = "Not ready, or shutting down", body = ReadinessAnswer), Readiness)
)]
pub async fn readyz(State(app): State<App>) -> Response {
    let (ready, body) = app.health.readiness().await;
    answer(ready, body)
}

fn answer(ready: bool, body: Value) -> Response {
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(body)).into_response()
}

/// Metrics as Prometheus text.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "health",
    responses((status = 200, description = "Prometheus text", body = String, content_type = "text/plain"), Open)
)]
pub async fn metrics() -> Response {
    let text = bootstrap::telemetry::metrics().render();
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}
