//! Reading requests of the internal surface: content type, size, JSON, then fields, each with its own status.

use super::Runtime;
use super::refusal::Refusal;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use bytes::Bytes;
use domain::RunId;
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Map, Value};

/// The members of a body that must be an object.
#[derive(Debug)]
pub struct Members(Map<String, Value>);

impl FromRequest<Runtime> for Members {
    type Rejection = Refusal;

    async fn from_request(request: Request, runtime: &Runtime) -> Result<Self, Refusal> {
        if !is_json(request.headers()) {
            let message = "content type must be application/json";
            return Err(Refusal::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "invalid_request",
                message,
            ));
        }
        let bytes = read(request.into_body(), runtime.max_body_bytes).await?;
        if bytes.is_empty() {
            return Err(Refusal::invalid("body is empty"));
        }
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Refusal::invalid(format!("body is not JSON: {error}")))?;
        match value {
            Value::Object(members) => Ok(Self(members)),
            _ => Err(Refusal::unprocessable("body must be an object")),
        }
    }
}

/// The whole body; one byte too many is 413.
pub async fn read(body: Body, max_bytes: usize) -> Result<Bytes, Refusal> {
    let read = crate::extract::read_body(body, max_bytes).await;
    read.map_err(|problem| match problem.status {
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::too_large(max_bytes),
        _ => Refusal::invalid("body could not be read"),
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default();
    let kind = kind.trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

impl Members {
    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.contains('\0') => Err(nul(name)),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refusal::unprocessable(format!("{name} must be a string"))),
        }
    }

    pub fn required_text(&mut self, name: &str) -> Result<String, Refusal> {
        let missing = || Refusal::unprocessable(format!("{name} is required"));
        self.text(name)?.ok_or_else(missing)
    }

    /// A whole number ≥ 0.
    pub fn count(&mut self, name: &str) -> Result<Option<i64>, Refusal> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let number = value.as_i64().filter(|number| *number >= 0);
        let wrong = || Refusal::unprocessable(format!("{name} must be an integer >= 0"));
        number.map(Some).ok_or_else(wrong)
    }

    /// Any JSON; absent is null.
    pub fn any(&mut self, name: &str) -> Result<Value, Refusal> {
        let value = self.0.remove(name).unwrap_or(Value::Null);
        if holds_nul(&value) {
            Err(nul(name))
        } else {
            Ok(value)
        }
    }
}

fn nul(name: &str) -> Refusal {
    Refusal::unprocessable(format!("{name} must not contain U+0000"))
}

fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| name.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// `{run_id}`; anything but a UUID is 400.
#[derive(Debug, Clone, Copy)]
pub struct RunPath(pub RunId);

impl<S: Send + Sync> FromRequestParts<S> for RunPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let wrong = || Refusal::invalid("run_id must be a UUID");
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| wrong())?;
        text.parse().map(Self).map_err(|_| wrong())
    }
}
