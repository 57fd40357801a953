//! Who is let in, and what the others are told.

use crate::errors::{expected, problem};
use crate::harness::{Api, SECRET};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use testkit::jwt;
use uuid::Uuid;

fn refused_headers() -> Vec<(Option<String>, &'static str, &'static str)> {
    let raw = |header: &Value, claims: &Value| {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.AAAA", part(header), part(claims))
    };
    let good = json!({"sub": "u"});
    vec![
        (None, "missing_authorization", "Missing authorization header"),
        (
            Some("Bearer".into()),
            "invalid_authorization",
            "Invalid authorization header format",
        ),
        (
            Some("Token x".into()),
            "invalid_authorization",
            "Invalid authorization header format",
        ),
        (
            Some("Bearer sk_agent_unknown".into()),
            "invalid_api_key",
            "Invalid API key",
        ),
        (
            Some("Bearer a.b".into()),
            "invalid_token_format",
            "Invalid token format",
        ),
        (
            Some("Bearer a.b.c".into()),
            "invalid_token_format",
            "Invalid token format",
        ),
        (
            Some(format!("Bearer {}", raw(&json!({"alg": "none"}), &good))),
            "invalid_token",
            "Invalid or expired token",
        ),
        (
            Some(format!("Bearer {}", raw(&json!({"alg": "RS256"}), &good))),
            "invalid_token",
            "Invalid or expired token",
        ),
        (
            Some(format!("Bearer {}", jwt("other secret", "u", json!({})))),
            "invalid_token",
            "Invalid or expired token",
        ),
        (
            Some(format!("bearer {}", jwt(SECRET, "u", json!({"exp": 1})))),
            "token_expired",
            "Token expired",
        ),
        (
            Some(format!("Bearer {}", jwt(SECRET, "", json!({})))),
            "no_user_id",
            "Invalid token: no user ID",
        ),
    ]
}

#[tokio::test]
async fn every_way_of_not_being_authenticated_has_its_own_answer() {
    let api = Api::start().await;
    for (header, code, detail) in refused_headers() {
        let mut request = api
            .client
            .post(format!("{}/agent/execute", api.base))
            .body("not json");
        if let Some(header) = &header {
            request = request.header("authorization", header);
        }
        let answer = problem(request.send().await.unwrap()).await;
        assert_eq!(answer, expected(401, code, detail), "{header:?}");
    }
    let url = format!(
        "{}/agent/logs?run_id={}&token={}",
        api.base,
        Uuid::nil(),
        jwt(SECRET, "u", json!({}))
    );
    let answer = problem(api.client.get(url).send().await.unwrap()).await;
    assert_eq!(
        answer.1, "missing_authorization",
        "a token in the query is not accepted"
    );
}
