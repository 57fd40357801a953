//! What a vendor's answer means: pure functions from status, headers and error body to a [`ModelError`].
//!
//! | answer | decision |
//! |---|---|
//! | 408, 429, 5xx (529 included) | transient, `Retry-After` passed on |
//! | 402, or any status for spent money | spent: waiting does not help, the run is paused |
//! | any other | permanent |
//! | error inside a 200 stream | by its type or code, as above; unknown ones are transient |

use agent::ports::ModelError;
use jiff::Timestamp;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;
use std::time::Duration;

/// Of a vendor's message at most this many characters are shown.
const MAX_MESSAGE_CHARS: usize = 200;
/// A longer `Retry-After` is taken as this.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(24);

/// Error types and codes that mean that money or quota is spent.
const SPENT: [&str; 8] = [
    "insufficient_quota",
    "credit_balance_too_low",
    "usage_limit_reached",
    "enforced_spend_limit_reached",
    "billing_hard_limit_reached",
    "billing_not_active",
    "billing_error",
    "insufficient_credits",
];

/// Error types that no second try will change.
const REFUSED: [&str; 8] = [
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "invalid_api_key",
    "context_length_exceeded",
    "model_not_found",
];

/// The vendor's own words on a failure; all parts may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct VendorFault {
    pub(super) kind: Option<String>,
    pub(super) code: Option<String>,
    pub(super) message: Option<String>,
}

impl VendorFault {
    /// Reads `{"error":{"type","code","message"}}` and the like; other bodies give nothing.
    pub(super) fn from_body(body: &[u8]) -> Self {
        serde_json::from_slice::<Value>(body)
            .map(|body| Self::from_value(&body))
            .unwrap_or_default()
    }

    /// The fault of a document with an `error` member, or of the error object itself.
    pub(super) fn from_value(document: &Value) -> Self {
        let error = match document.get("error") {
            Some(Value::String(message)) => {
                return Self {
                    message: Some(short(message)),
                    ..Self::default()
                };
            }
            Some(error) => error,
            None => document,
        };
        let text = |value: Option<&Value>| match value {
            Some(Value::String(text)) if !text.is_empty() => Some(short(text)),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let details = error.get("details");
        let detail = |name: &str| text(details.and_then(|details| details.get(name)));
        Self {
            kind: text(error.get("type")),
            code: text(error.get("code"))
                .or_else(|| detail("error_code"))
                .or_else(|| detail("code")),
            message: text(error.get("message")),
        }
    }

    fn names_one_of(&self, names: &[&str]) -> bool {
        [&self.kind, &self.code]
            .into_iter()
            .flatten()
            .any(|name| names.contains(&name.as_str()))
    }

    /// `": type: message"`, as far as given.
    fn words(&self) -> String {
        [self.code.as_ref().or(self.kind.as_ref()), self.message.as_ref()]
            .into_iter()
            .flatten()
            .map(|part| format!(": {part}"))
            .collect()
    }
}

/// The decision on an HTTP answer that is no success.
pub(super) fn decide_status(
    provider: &str,
    status: u16,
    retry_after: Option<Duration>,
    fault: &VendorFault,
) -> ModelError {
    let text = format!("answered {status}{}", fault.words());
    if status == 402 || fault.names_one_of(&SPENT) {
        return spent(provider, &text, Some(status));
    }
    if !is_transient(status) {
        return permanent(provider, &text, Some(status));
    }
    ModelError::Transient {
        message: format!("{provider} {text}"),
        status: Some(status),
        retry_after,
        try_again_here: true,
    }
}

/// The decision on an error event inside a stream that began well.
pub(super) fn decide_stream_fault(provider: &str, fault: &VendorFault) -> ModelError {
    let text = format!("broke off with an error{}", fault.words());
    let code = fault.code.as_ref().and_then(|code| code.parse::<u16>().ok());
    let refused_code = code.is_some_and(|code| (400..500).contains(&code) && !is_transient(code));
    if code == Some(402) || fault.names_one_of(&SPENT) {
        return spent(provider, &text, None);
    }
    if refused_code || fault.names_one_of(&REFUSED) {
        return permanent(provider, &text, None);
    }
    transient(provider, &text)
}

/// Statuses worth another try (AA-73).
pub(super) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

pub(super) fn transient(provider: &str, text: &str) -> ModelError {
    ModelError::Transient {
        message: format!("{provider} {text}"),
        status: None,
        retry_after: None,
        try_again_here: true,
    }
}

fn spent(provider: &str, text: &str, status: Option<u16>) -> ModelError {
    ModelError::Spent {
        message: format!("{provider} {text}"),
        status,
    }
}

pub(super) fn permanent(provider: &str, text: &str, status: Option<u16>) -> ModelError {
    ModelError::Permanent {
        message: format!("{provider} {text}"),
        status,
    }
}

/// The wait a vendor asks for: `retry-after-ms`, or `Retry-After` in seconds or as an HTTP date.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    };
    if let Some(ms) = header("retry-after-ms").and_then(|text| text.parse::<u64>().ok()) {
        return Some(Duration::from_millis(ms).min(MAX_RETRY_AFTER));
    }
    let text = header(RETRY_AFTER.as_str())?;
    if let Ok(seconds) = text.parse::<f64>() {
        let wait = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(MAX_RETRY_AFTER);
        return Some(wait.min(MAX_RETRY_AFTER));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let wait = Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
    Some(wait.min(MAX_RETRY_AFTER))
}

/// One line, at most [`MAX_MESSAGE_CHARS`], words that look like keys masked.
pub(super) fn short(text: &str) -> String {
    let line = text
        .split_whitespace()
        .map(|word| if looks_like_key(word) { "***" } else { word })
        .collect::<Vec<_>>()
        .join(" ");
    match line.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((cut, _)) => format!("{}…", &line[..cut]),
        None => line,
    }
}

fn looks_like_key(word: &str) -> bool {
    let word = word.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    word.len() > 12
        && ["sk-", "sk_", "key-"]
            .iter()
            .any(|prefix| word.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fault(body: Value) -> VendorFault {
        VendorFault::from_body(body.to_string().as_bytes())
    }

    fn is_transient_error(error: &ModelError) -> bool {
        matches!(error, ModelError::Transient { .. })
    }

    #[test]
    fn the_status_decides_but_spent_money_is_final() {
        let rate = fault(json!({"error": {"type": "rate_limit_error", "message": "slow down"}}));
        for status in [408, 429, 500, 502, 503, 504, 529] {
            assert!(
                is_transient_error(&decide_status("x", status, None, &rate)),
                "{status}"
            );
        }
        let unpaid = decide_status("x", 402, None, &rate);
        assert!(matches!(unpaid, ModelError::Spent { .. }));
        for status in [301, 400, 401, 403, 404, 409, 413, 422] {
            assert!(
                !is_transient_error(&decide_status("x", status, None, &rate)),
                "{status}"
            );
        }
        for body in [
            json!({"error": {"type": "insufficient_quota", "code": "insufficient_quota"}}),
            json!({"error": {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}}}),
            json!({"type": "error", "error": {"type": "enforced_spend_limit_reached"}}),
        ] {
            let error = decide_status("x", 429, None, &fault(body));
            assert!(matches!(error, ModelError::Spent { .. }), "{error}");
        }
    }

    #[test]
    fn errors_inside_a_stream_are_decided_by_type_or_code() {
        for body in [
            json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
            json!({"error": {"code": 502, "message": "upstream"}}),
            json!({"error": "something"}),
            json!({"error": {"type": "server_error"}}),
        ] {
            assert!(
                is_transient_error(&decide_stream_fault("x", &fault(body.clone()))),
                "{body}"
            );
        }
        for body in [
            json!({"error": {"type": "invalid_request_error"}}),
            json!({"error": {"code": 400}}),
            json!({"error": {"code": "insufficient_quota"}}),
        ] {
            assert!(
                !is_transient_error(&decide_stream_fault("x", &fault(body.clone()))),
                "{body}"
            );
        }
    }

    #[test]
    fn the_message_is_short_one_line_and_without_key() {
        let body = json!({"error": {"type": "authentication_error",
            "message": format!("Incorrect key\nprovided: sk-abcdefghijklmnop. {}", "x".repeat(500))}});
        let text = decide_status("openai", 401, None, &fault(body)).to_string();
        assert!(text.contains("openai answered 401: authentication_error: Incorrect key provided: ***"));
        assert!(!text.contains("abcdef") && text.len() < 320, "{text}");
    }

    #[test]
    fn retry_after_is_read_in_every_form() {
        let now: Timestamp = "2026-11-20T17:00:00Z".parse().unwrap();
        let read = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(read("retry-after", "0.5"), Some(Duration::from_millis(500)));
        assert_eq!(read("retry-after", "-3"), Some(Duration::ZERO));
        assert_eq!(read("retry-after", "1e300"), Some(MAX_RETRY_AFTER));
        assert_eq!(read("retry-after-ms", "250"), Some(Duration::from_millis(250)));
        let date = "Fri, 20 Nov 2026 17:00:30 GMT";
        assert_eq!(read("retry-after", date), Some(Duration::from_secs(30)));
        let past = "Fri, 20 Nov 2026 16:00:30 GMT";
        assert_eq!(read("retry-after", past), Some(Duration::ZERO));
        assert_eq!(read("retry-after", "soon"), None);
    }
}
