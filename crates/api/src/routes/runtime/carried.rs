//! What a request says it is about, in path, query, body and headers; the claims of its signature must say the same.

use super::signature::Claims;
use crate::extract::Query;
use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

const USER_ID: HeaderName = HeaderName::from_static("x-oa-user-id");
const GUEST_SCOPE: HeaderName = HeaderName::from_static("x-oa-guest-scope");

/// Claim names, in the order they are compared, with every value the request carries for them.
#[derive(Debug, Default)]
pub struct Carried([(&'static str, Vec<Value>); 4]);

impl Carried {
    /// `body` is read here as its handler will read it; one that is no JSON object carries nothing.
    pub async fn of(parts: &mut Parts, body: &[u8]) -> Self {
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let members: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        let given = |name: &str| {
            let body = members.get(name).filter(|value| !value.is_null()).cloned();
            let query = query.all(name).into_iter().map(Value::from);
            query.chain(body).collect::<Vec<_>>()
        };
        let mut run_ids = of_path(parts, "run_id").await;
        run_ids.extend(given("run_id"));
        Self([
            ("run_id", run_ids),
            ("thread_id", given("thread_id")),
            ("user_id", of_headers(&parts.headers, &USER_ID, user_id)),
            ("guest_scope", of_headers(&parts.headers, &GUEST_SCOPE, text)),
        ])
    }

    /// The first claim that differs from what the request carries.
    pub fn differs_from(&self, claims: &Claims) -> Option<&'static str> {
        let differs = |(name, values): &&(&'static str, Vec<Value>)| {
            values.iter().any(|value| claims.get(name) != Some(value))
        };
        self.0.iter().find(differs).map(|(name, _)| *name)
    }
}

/// None where no route matches or the path is no text: the request is refused later whatever it claims.
async fn of_path(parts: &mut Parts, name: &str) -> Vec<Value> {
    let params = RawPathParams::from_request_parts(parts, &()).await;
    let params = params.ok();
    let named = params.iter().flatten().filter(|(own, _)| *own == name);
    named.map(|(_, value)| Value::from(value)).collect()
}

fn of_headers(headers: &HeaderMap, name: &HeaderName, read: fn(&HeaderValue) -> Value) -> Vec<Value> {
    headers.get_all(name).iter().map(read).collect()
}

/// Bytes that are no text equal no claim: JSON text never holds the replacement character they become by accident.
fn text(value: &HeaderValue) -> Value {
    match std::str::from_utf8(value.as_bytes()) {
        Ok(text) => Value::from(text),
        Err(_) => Value::Array(vec![]),
    }
}

/// A number when the header is digits; digits beyond every number we hold stay text.
fn user_id(value: &HeaderValue) -> Value {
    let digits = value.as_bytes().iter().all(u8::is_ascii_digit);
    let number = value
        .to_str()
        .ok()
        .filter(|_| digits)
        .and_then(|text| text.parse::<u64>().ok());
    number.map_or_else(|| text(value), Value::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::runtime::signature::sign;
    use http::Request;
    use jsonwebtoken::DecodingKey;
    use serde_json::json;

    const NOW: i64 = 1_790_000_100;

    async fn difference(
        uri: &str,
        headers: &[(&str, &str)],
        body: &str,
        claims: Value,
    ) -> Option<&'static str> {
        let mut all = json!({"iat": NOW, "exp": NOW + 60, "nonce": "n"});
        all.as_object_mut()
            .unwrap()
            .extend(claims.as_object().unwrap().clone());
        let header: HeaderValue = sign(&all, "s").unwrap().parse().unwrap();
        let claims = Claims::verify(&header, &DecodingKey::from_secret(b"s"), NOW).unwrap();
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).unwrap().into_parts();
        Carried::of(&mut parts, body.as_bytes())
            .await
            .differs_from(&claims)
    }

    #[tokio::test]
    async fn query_body_and_headers_must_say_what_the_claims_say() {
        let none = json!({});
        assert_eq!(difference("/", &[], "", none.clone()).await, None);
        assert_eq!(
            difference("/?run_id=a", &[], "", none.clone()).await,
            Some("run_id")
        );
        assert_eq!(
            difference("/?run_id=a", &[], "", json!({"run_id": "a"})).await,
            None
        );
        let two = json!({"run_id": "a"});
        assert_eq!(
            difference("/?run_id=a&run_id=b", &[], "", two.clone()).await,
            Some("run_id")
        );
        assert_eq!(
            difference("/?run_id=a", &[], r#"{"run_id":"b"}"#, two).await,
            Some("run_id")
        );
        let thread = r#"{"thread_id":"t","deep":{"run_id":"x"}}"#;
        assert_eq!(
            difference("/", &[], thread, json!({"thread_id": "t"})).await,
            None
        );
        assert_eq!(
            difference("/", &[], thread, json!({"thread_id": "u"})).await,
            Some("thread_id")
        );
        assert_eq!(
            difference("/", &[], r#"{"run_id":null}"#, none.clone()).await,
            None
        );
        assert_eq!(difference("/", &[], "[1", none).await, None);
    }

    #[tokio::test]
    async fn a_user_id_of_digits_is_a_number_and_any_other_is_text() {
        let digits = [("x-oa-user-id", "7")];
        assert_eq!(difference("/", &digits, "", json!({"user_id": 7})).await, None);
        assert_eq!(
            difference("/", &digits, "", json!({"user_id": "7"})).await,
            Some("user_id")
        );
        let word = [("x-oa-user-id", "u7")];
        assert_eq!(difference("/", &word, "", json!({"user_id": "u7"})).await, None);
        let huge = [("x-oa-user-id", "99999999999999999999999")];
        let number = serde_json::from_str(r#"{"user_id":99999999999999999999999}"#).unwrap();
        assert_eq!(difference("/", &huge, "", number).await, Some("user_id"));
        let scope = [("x-oa-guest-scope", "g")];
        assert_eq!(difference("/", &scope, "", json!({})).await, Some("guest_scope"));
        assert_eq!(
            difference("/", &scope, "", json!({"guest_scope": "g"})).await,
            None
        );
    }
}
