//! Reading requests: JSON bodies, whatever `Content-Type` says, query strings and path parameters.

use crate::error::{FieldFault, Problem};
use crate::fields::Fields;
use crate::state::App;
use axum::body::Body as HttpBody;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use bytes::Bytes;
use domain::RunId;
use http::request::Parts;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;
use serde_json::Value;

/// What a body or query is read into.
pub trait FromFields: Sized {
    /// Takes its fields; faults are noted in `fields`, never returned.
    fn read(fields: &mut Fields) -> Self;
}

/// A JSON body of at most `AGENT_MAX_BODY_BYTES`, with the whole value for idempotency.
#[derive(Debug)]
pub struct Json<T> {
    pub fields: T,
    pub whole: Value,
}

impl<T: FromFields> FromRequest<App> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let max_bytes = app.limits.max_body_bytes;
        // What announces itself as too large is not read first.
        if announced(request.headers()).is_some_and(|bytes| bytes > max_bytes as u64) {
            return Err(Problem::payload_too_large());
        }
        let bytes = read_body(request.into_body(), max_bytes).await?;
        let whole: Value = serde_json::from_slice(&bytes).map_err(|error| invalid_json(&error))?;
        let Value::Object(object) = whole.clone() else {
            return Err(not_an_object(&whole));
        };
        let mut fields = Fields::of_body(object);
        let read = T::read(&mut fields);
        fields.finish()?;
        Ok(Self { fields: read, whole })
    }
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The whole body; one byte too many is 413.
pub async fn read_body(body: HttpBody, max_bytes: usize) -> Result<Bytes, Problem> {
    match Limited::new(body, max_bytes).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Problem::payload_too_large()),
        Err(_) => Err(Problem::bad_request(
            "bad_request",
            "Request body could not be read",
        )),
    }
}

fn body_fault(kind: &'static str, msg: String) -> Problem {
    Problem::validation(vec![FieldFault {
        loc: vec!["body".to_owned()],
        msg,
        kind,
    }])
}

fn invalid_json(error: &serde_json::Error) -> Problem {
    body_fault("json_invalid", format!("JSON decode error: {error}"))
}

fn not_an_object(value: &Value) -> Problem {
    if value.is_null() {
        return body_fault("missing", "Field required".to_owned());
    }
    body_fault("value_error", "Input should be a valid object".to_owned())
}

/// The query string, decoded, in its order.
#[derive(Debug, Clone, Default)]
pub struct Query(pub Vec<(String, String)>);

impl Query {
    pub fn parse(text: &str) -> Self {
        let decode = |part: &str| {
            percent_decode_str(&part.replace('+', " "))
                .decode_utf8_lossy()
                .into_owned()
        };
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    /// Every value given under this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.0.iter().filter(|(key, _)| key == name);
        named.map(|(_, value)| value.as_str()).collect()
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

/// `{run_id}` of the path; text that is no UUID names no run.
#[derive(Debug, Clone, Copy)]
pub struct RunPath(pub RunId);

impl<S: Send + Sync> FromRequestParts<S> for RunPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = path.map_err(|_| Problem::run_not_found())?;
        parse_run_id(&text).map(Self)
    }
}

/// A hyphenated UUID, or 404.
pub fn parse_run_id(text: &str) -> Result<RunId, Problem> {
    if text.len() != uuid::fmt::Hyphenated::LENGTH {
        return Err(Problem::run_not_found());
    }
    text.parse().map_err(|_| Problem::run_not_found())
}
