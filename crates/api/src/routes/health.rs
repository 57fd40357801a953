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

/// `/ready`: the dependencies alone.
pub async fn ready(State(app): State<App>) -> Response {
    let (ready, mut body) = app.health.readiness().await;
    if let Some(members) = body.as_object_mut() {
        members.remove("queue");
    }
    answer(ready, body)
}

/// `/readyz`: and what the queue looks like.
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

/// Prometheus text.
pub async fn metrics() -> Response {
    let text = bootstrap::telemetry::metrics().render();
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}
