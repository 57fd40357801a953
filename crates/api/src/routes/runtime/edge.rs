//! Request id, log lines and metrics of the internal surface; a panic is a 500 of its shape.

use super::Runtime;
use super::refusal::Refusal;
use super::table;
use crate::drain;
use crate::edge::{Trace, X_REQUEST_ID, known, span};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use http::HeaderValue;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument as _;

/// Longest wait for an answer to begin: a store that hangs is a store that is away.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The middleware.
pub async fn handle(State(runtime): State<Runtime>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let mut trace = Trace::of(request.headers(), &*runtime.ids);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().cloned();
    tracing::info!(method = %method, path = %path, request_id = %trace.request_id, "request_started");
    let span = span(&method, route.as_ref(), &mut trace);
    let (request, leftover) = drain::hold(request);
    let called = AssertUnwindSafe(tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)))
        .catch_unwind()
        .instrument(span.clone())
        .await
        .map(|answered| answered.unwrap_or_else(|_| Refusal::unavailable().into_response()));
    let mut response = called.unwrap_or_else(|_| {
        tracing::error!(request_id = %trace.request_id, "handler panicked");
        Refusal::internal().into_response()
    });
    if let Some(leftover) = leftover {
        leftover.drain().await;
    }
    if let Ok(value) = HeaderValue::from_str(&trace.request_id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    let status = response.status().as_u16();
    span.record("http.response.status_code", status);
    let elapsed = started.elapsed().as_secs_f64();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str).to_owned();
    let method_label = known(&method);
    if !table::documents(method_label, &route, status) {
        tracing::error!(
            method = method_label,
            route,
            status_code = status,
            "status is not in the contract"
        );
    }
    let labels = [
        ("route", route.clone()),
        ("method", method_label.to_owned()),
        ("status_class", format!("{}xx", status / 100)),
    ];
    metrics::counter!("runtime_http_requests_total", &labels).increment(1);
    metrics::histogram!("runtime_http_request_duration_seconds", "route" => route, "method" => method_label)
        .record(elapsed);
    tracing::info!(method = %method, path = %path, status_code = status, duration_ms = elapsed * 1e3,
        request_id = %trace.request_id, "request_completed");
    response
}
