//! Cross-origin rules: `*` answers any origin without credentials, a listed origin is echoed with them.

use axum::body::Body;
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

/// Seconds a browser may remember a preflight.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, OPTIONS");
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, X-Request-ID, traceparent",
);
const EXPOSED: HeaderValue = HeaderValue::from_static("X-Request-ID, Retry-After, ETag");

/// Who may read our answers from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cors {
    Any,
    Listed(Vec<String>),
}

impl Cors {
    /// A JSON list or a comma list.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let origins: Vec<String> = if text.starts_with('[') {
            serde_json::from_str(text).map_err(|error| error.to_string())?
        } else {
            text.split(',').map(|origin| origin.trim().to_owned()).collect()
        };
        if origins.iter().any(|origin| origin == "*") {
            return Ok(Self::Any);
        }
        Ok(Self::Listed(origins))
    }

    /// The answer to a preflight request, if this is one.
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response> {
        let asks = headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if method != Method::OPTIONS || !asks {
            return None;
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let wanted = headers.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        let answer = response.headers_mut();
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.unwrap_or(HEADERS));
        answer.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        Some(response)
    }

    /// Adds what the browser needs to let the page read the answer.
    pub fn decorate(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        match (self, origin) {
            (Self::Any, _) => {
                headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
                headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
            }
            (Self::Listed(_), None) => {}
            (Self::Listed(origins), Some(origin)) => {
                headers.append(VARY, HeaderValue::from_static("Origin"));
                if origins.iter().any(|own| own.as_bytes() == origin.as_bytes()) {
                    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                    headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
                    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(cors: &Cors, origin: &'static str) -> (Option<String>, bool) {
        let mut headers = HeaderMap::new();
        cors.decorate(Some(&HeaderValue::from_static(origin)), &mut headers);
        let origin = headers.get(ACCESS_CONTROL_ALLOW_ORIGIN);
        let origin = origin.map(|value| value.to_str().unwrap().to_owned());
        (origin, headers.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS))
    }

    #[test]
    fn any_origin_comes_without_credentials_and_a_listed_one_with() {
        let any = Cors::parse(r#"["*"]"#).unwrap();
        assert_eq!(allowed(&any, "https://a.example"), (Some("*".into()), false));
        for text in ["https://a.example, https://b.example", r#"["https://a.example"]"#] {
            let listed = Cors::parse(text).unwrap();
            assert_eq!(
                allowed(&listed, "https://a.example"),
                (Some("https://a.example".into()), true)
            );
            assert_eq!(allowed(&listed, "https://c.example"), (None, false));
        }
        assert!(Cors::parse("[1]").is_err());
    }
}
