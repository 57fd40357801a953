//! Refusals of the internal surface: `{"error":"<code>","message":"<text>"}`; an unknown id has no message.

use crate::config::WriteMode;
use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use runs::RuntimeError;
use serde_json::json;
use std::borrow::Cow;

/// Seconds in `Retry-After` of a 503.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

/// Status, code, text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}")]
pub struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: Option<Cow<'static, str>>,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            message: Some(message.into()),
        }
    }

    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    /// Right JSON, wrong content.
    pub fn unprocessable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", message)
    }

    pub fn unauthorized(message: &'static str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub fn not_found() -> Self {
        Self {
            status: StatusCode::NOT_FOUND,
            code: "not_found",
            message: None,
        }
    }

    pub fn method_not_allowed() -> Self {
        let message = "method is not allowed for this path";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    pub fn unavailable() -> Self {
        let message = "run store is unavailable";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// The nonces of signed requests cannot be looked up: nobody is let in on trust.
    pub fn replay_guard_unavailable() -> Self {
        let message = "replay guard is unavailable";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    /// Another authority writes.
    pub fn frozen(mode: WriteMode) -> Self {
        let message = format!("runtime authority writes are disabled in mode {}", mode.as_str());
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "write_path_frozen", message)
    }

    pub fn too_large(max_bytes: usize) -> Self {
        let message = format!("body exceeds {max_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message)
    }

    pub fn internal() -> Self {
        let message = "an unexpected error occurred";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = match &self.message {
            Some(message) => json!({"error": self.code, "message": message}),
            None => json!({"error": self.code}),
        };
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

impl From<RuntimeError> for Refusal {
    fn from(error: RuntimeError) -> Self {
        match error {
            RuntimeError::NotFound => Self::not_found(),
            RuntimeError::Invalid(text) => Self::invalid(text),
            RuntimeError::Forbidden(text) => Self::forbidden(text),
            RuntimeError::Conflict(text) => Self::new(StatusCode::CONFLICT, "conflict", text),
            RuntimeError::Unavailable(_) => {
                tracing::warn!(error = %crate::error::chain(&error), "run store is unavailable");
                Self::unavailable()
            }
            RuntimeError::Database(_) => {
                tracing::error!(error = %crate::error::chain(&error), "run store failed");
                Self::internal()
            }
        }
    }
}
