//! `ETag` and `If-None-Match`: who polls what has not changed gets 304 without a body.
//!
//! The tag is made of the body itself, so it can never be the same for two different answers; it is weak because it says
//! nothing of how the body was encoded on its way.

use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Bytes of the hash in a tag.
const TAG_BYTES: usize = 16;

/// This body, or 304 when the caller holds it already.
pub fn answer(request: &HeaderMap, body: &Value) -> Response {
    let text = body.to_string();
    let tag = tag(&text);
    let known = is_known(request, &tag);
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, "application/json")], text).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, no-cache"),
    );
    if let Ok(tag) = HeaderValue::from_str(&format!("W/{tag}")) {
        headers.insert(header::ETAG, tag);
    }
    response
}

/// The quoted part.
fn tag(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash[..TAG_BYTES]))
}

/// Weak comparison with each tag of the list; our tags hold no comma.
fn is_known(request: &HeaderMap, tag: &str) -> bool {
    let given = request.get_all(header::IF_NONE_MATCH).iter();
    let mut tags = given
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    tags.any(|given| {
        let given = given.trim();
        given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(given: &str, body: &Value) -> StatusCode {
        let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, given.parse().unwrap())]);
        answer(&headers, body).status()
    }

    #[test]
    fn a_known_tag_is_304_in_every_spelling_and_an_old_one_is_not() {
        let body = json!({"a": 1});
        let first = answer(&HeaderMap::new(), &body);
        assert_eq!(first.status(), StatusCode::OK);
        let tag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        assert!(tag.starts_with("W/\""), "{tag}");
        let strong = tag.trim_start_matches("W/");
        for same in [tag.as_str(), strong, "*", &format!("\"x\", {tag}")] {
            assert_eq!(status(same, &body), StatusCode::NOT_MODIFIED, "{same}");
        }
        for other in ["\"x\"", "", "W/\"\""] {
            assert_eq!(status(other, &body), StatusCode::OK, "{other}");
        }
        assert_eq!(status(&tag, &json!({"a": 2})), StatusCode::OK);
    }
}
