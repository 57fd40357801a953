//! Refusals of the public surface as `application/problem+json`.
//!
//! A [`Problem`] travels as a response extension and is rendered by the edge, which alone knows the request id.
//! Details of 5xx answers are two fixed sentences: nothing of a query, host, path or exception leaves the process.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use runs::CommandError;
use serde::Serialize;
use serde_json::json;
use std::borrow::Cow;

/// Media type of every refusal.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// Seconds in `Retry-After` of a 503.
const RETRY_AFTER_SECONDS: u64 = 2;

/// One fault of the request's shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldFault {
    /// `body`, `query` or `path`, then the field.
    pub loc: Vec<String>,
    pub msg: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
}

/// A refusal: status, stable code, sentence for people.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Problem {
    pub status: StatusCode,
    pub code: &'static str,
    pub detail: Cow<'static, str>,
    /// Only for `validation_error`.
    pub faults: Vec<FieldFault>,
    /// Seconds in `Retry-After`.
    pub retry_after: Option<u64>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            faults: vec![],
            retry_after: None,
        }
    }

    pub fn bad_request(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    pub fn unauthorized(code: &'static str, detail: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, detail)
    }

    pub fn forbidden(detail: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// An unknown run and a run of somebody else are the same.
    pub fn run_not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "run_not_found", "Run not found")
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not Found")
    }

    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "Method Not Allowed",
        )
    }

    pub fn payload_too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "payload_too_large",
            "Request body is too large",
        )
    }

    pub fn validation(faults: Vec<FieldFault>) -> Self {
        let detail = "Request validation failed";
        Self {
            faults,
            ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "validation_error", detail)
        }
    }

    pub fn idempotency_conflict() -> Self {
        let detail = "Idempotency-Key was already used with a different request";
        Self::new(StatusCode::CONFLICT, "idempotency_conflict", detail)
    }

    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "An unexpected error occurred",
        )
    }

    pub fn unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "Service temporarily unavailable",
        )
        .after(RETRY_AFTER_SECONDS)
    }

    pub fn rate_limited(detail: &'static str, retry_after: u64) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail).after(retry_after)
    }

    pub fn insufficient_credits() -> Self {
        Self::new(
            StatusCode::PAYMENT_REQUIRED,
            "insufficient_credits",
            "Insufficient credits",
        )
    }

    /// Says when to come again.
    #[must_use]
    pub fn after(self, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }

    /// The refusal that fits a bare status, for answers made by the framework itself.
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::not_found(),
            StatusCode::METHOD_NOT_ALLOWED => Self::method_not_allowed(),
            StatusCode::PAYLOAD_TOO_LARGE => Self::payload_too_large(),
            StatusCode::SERVICE_UNAVAILABLE => Self::unavailable(),
            status if status.is_server_error() => Self::internal(),
            status => Self::new(
                status,
                "bad_request",
                status.canonical_reason().unwrap_or("Bad Request"),
            ),
        }
    }

    /// The whole answer; `headers` of an earlier answer (for example `Allow`) are kept.
    pub fn render(&self, request_id: &str, mut headers: HeaderMap) -> Response {
        let mut body = json!({
            "type": format!("urn:agent-api:problem:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
            "error": self.detail,
            "request_id": request_id,
        });
        if self.code == "validation_error" {
            body["errors"] = json!(self.faults);
        }
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        (self.status, headers, body.to_string()).into_response()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// What a failed read or command means to a caller; faults of ours are logged here, once.
impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::NotFound => Self::run_not_found(),
            CommandError::IdempotencyConflict => Self::idempotency_conflict(),
            CommandError::Unavailable(_) => {
                tracing::warn!(error = %chain(&error), "run store is unavailable");
                Self::unavailable()
            }
            other => {
                tracing::error!(error = %chain(&other), "command failed");
                Self::internal()
            }
        }
    }
}

impl From<runs::StoreError> for Problem {
    fn from(error: runs::StoreError) -> Self {
        CommandError::from(error).into()
    }
}

/// An error with its sources, for one log line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    async fn body(problem: Problem) -> (http::response::Parts, serde_json::Value) {
        let (parts, body) = problem.render("rid", HeaderMap::new()).into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn a_refusal_has_exactly_the_documented_members() {
        let (parts, body) = body(Problem::run_not_found()).await;
        assert_eq!(parts.headers[header::CONTENT_TYPE], PROBLEM_JSON);
        assert_eq!(
            body,
            json!({"type": "urn:agent-api:problem:run_not_found", "title": "Not Found", "status": 404,
                "detail": "Run not found", "code": "run_not_found", "error": "Run not found", "request_id": "rid"})
        );
    }

    #[tokio::test]
    async fn refusals_carry_the_headers_their_status_needs() {
        let (parts, _) = body(Problem::unauthorized("token_expired", "Token expired")).await;
        assert_eq!(parts.headers[header::WWW_AUTHENTICATE], "Bearer");
        let (parts, body) = body(Problem::unavailable()).await;
        assert_eq!(parts.headers[header::RETRY_AFTER], "2");
        assert_eq!(body["detail"], "Service temporarily unavailable");
    }
}
