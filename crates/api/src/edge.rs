//! What happens to every request of the public surface, whatever its route: request id, trace context, log lines,
//! metrics, cross-origin headers, and the rendering of refusals. A panic of a handler is a 500, not a lost connection.

use crate::cors::Cors;
use crate::drain;
use crate::error::{PROBLEM_JSON, Problem};
use crate::quota::Held;
use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domain::Ids;
use domain::job::{make_traceparent, parse_traceparent};
use futures::FutureExt as _;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use sha2::{Digest as _, Sha256};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

/// Longest request id taken over.
const MAX_REQUEST_ID_CHARS: usize = 128;
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the edge needs.
#[derive(Debug, Clone)]
pub struct Edge {
    pub ids: Arc<dyn Ids>,
    pub cors: Arc<Cors>,
    /// Time for an answer to begin; a stream may then last.
    pub patience: Duration,
}

/// The request's identity in logs and its place in a trace.
#[derive(Debug, Clone)]
pub struct Trace {
    pub request_id: String,
    /// Valid W3C: the caller's, or a new one.
    pub traceparent: String,
}

impl Trace {
    pub fn of(headers: &HeaderMap, ids: &dyn Ids) -> Self {
        let given = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
        let request_id = given.filter(|text| is_request_id(text)).map(str::to_owned);
        let parent = headers.get("traceparent").and_then(|value| value.to_str().ok());
        let traceparent = parent.and_then(parse_traceparent).map(str::to_owned);
        Self {
            request_id: request_id.unwrap_or_else(|| ids.uuid().to_string()),
            traceparent: traceparent.unwrap_or_else(|| make_traceparent(seed(ids))),
        }
    }
}

fn is_request_id(text: &str) -> bool {
    (1..=MAX_REQUEST_ID_CHARS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Ids of version 7 share their first bytes within a millisecond; the hash does not.
fn seed(ids: &dyn Ids) -> [u8; 24] {
    let digest = Sha256::new()
        .chain_update(ids.uuid())
        .chain_update(ids.uuid())
        .finalize();
    let mut seed = [0; 24];
    seed.copy_from_slice(&digest[..24]);
    seed
}

impl<S: Send + Sync> FromRequestParts<S> for Trace {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get().cloned().ok_or_else(Problem::internal)
    }
}

/// The middleware; see the module's documentation.
pub async fn handle(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let mut trace = Trace::of(request.headers(), &*edge.ids);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let route = request.extensions().get::<MatchedPath>().cloned();
    tracing::info!(method = %method, path = %path, request_id = %trace.request_id, "request_started");
    let span = span(&method, route.as_ref(), &mut trace);
    let (mut request, leftover) = drain::hold(request);
    request.extensions_mut().insert(trace.clone());
    // The user's place is given back when the answer is made.
    let held = Held::default();
    request.extensions_mut().insert(held.clone());

    let mut response = match edge.cors.preflight(&method, request.headers()) {
        Some(preflight) => preflight,
        None => {
            answer(request, next, (&trace.request_id, edge.patience))
                .instrument(span.clone())
                .await
        }
    };
    drop(held);
    if let Some(leftover) = leftover {
        leftover.drain_aside();
    }
    edge.cors.decorate(origin.as_ref(), response.headers_mut());
    if let Ok(value) = HeaderValue::from_str(&trace.request_id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    let status = response.status().as_u16();
    let elapsed = started.elapsed();
    span.record("http.response.status_code", status);
    count(&method, route.as_ref(), status, elapsed.as_secs_f64());
    tracing::info!(method = %method, path = %path, status_code = status, duration_ms = elapsed.as_secs_f64() * 1e3,
        request_id = %trace.request_id, "request_completed");
    response
}

/// The request's span; from now on `trace` leads to it.
pub fn span(method: &Method, route: Option<&MatchedPath>, trace: &mut Trace) -> Span {
    let route = route.map_or("unmatched", MatchedPath::as_str);
    let span = tracing::trace_span!(target: "traces", "runtime.ingest", otel.kind = "server",
        http.request.method = known(method), http.route = route, http.response.status_code = Empty,
        request_id = trace.request_id);
    trace.traceparent = bootstrap::traces::continued(&span, &trace.traceparent);
    span
}

/// Calls the route; refusals become problem+json, whoever made them.
async fn answer(request: Request, next: Next, (request_id, patience): (&str, Duration)) -> Response {
    let called = AssertUnwindSafe(next.run(request)).catch_unwind();
    let response = match tokio::time::timeout(patience, called).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            tracing::error!(request_id, "handler panicked");
            Problem::internal().into_response()
        }
        Err(_) => {
            tracing::warn!(request_id, "no answer in time");
            Problem::unavailable().into_response()
        }
    };
    let (mut parts, body) = response.into_parts();
    if let Some(problem) = parts.extensions.remove::<Problem>() {
        return problem.render(request_id, parts.headers);
    }
    let failed = parts.status.is_client_error() || parts.status.is_server_error();
    let json = parts.headers.get(header::CONTENT_TYPE).is_some_and(is_json);
    if failed && !json {
        return Problem::of_status(parts.status).render(request_id, parts.headers);
    }
    Response::from_parts(parts, body)
}

fn is_json(value: &HeaderValue) -> bool {
    value == PROBLEM_JSON || value == "application/json"
}

fn count(method: &Method, route: Option<&MatchedPath>, status: u16, seconds: f64) {
    // Only routes we know and methods there are: labels stay few whatever is asked for.
    let route = route.map_or("unmatched", MatchedPath::as_str).to_owned();
    let method = known(method);
    let labels = [
        ("method", method.to_owned()),
        ("route", route.clone()),
        ("status", status.to_string()),
    ];
    metrics::counter!("agent_http_requests_total", &labels).increment(1);
    metrics::histogram!("agent_http_request_seconds", "method" => method, "route" => route).record(seconds);
}

/// The method as a metric label: a closed list.
pub fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::SystemIds;

    fn trace(name: &'static str, value: &str) -> Trace {
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())]);
        Trace::of(&headers, &SystemIds)
    }

    #[test]
    fn a_sane_request_id_is_taken_over_and_any_other_replaced() {
        assert_eq!(trace("x-request-id", "a-1:b").request_id, "a-1:b");
        for bad in ["", "a b", "ä", &"x".repeat(129)] {
            assert_ne!(trace("x-request-id", bad).request_id, bad, "{bad}");
        }
    }

    #[test]
    fn a_valid_trace_context_is_continued_and_any_other_replaced() {
        let good = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";
        assert_eq!(trace("traceparent", good).traceparent, good);
        let made = trace("traceparent", "00-zz").traceparent;
        assert!(parse_traceparent(&made).is_some(), "{made}");
    }
}
