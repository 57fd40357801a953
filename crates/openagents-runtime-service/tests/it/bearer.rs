//! Bearers, both ways together, and neither.

use crate::service::{JWT_SECRET, SECRET, SOON, Service, claims, client, program, read, refusal, signed};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use testkit::{Postgres, Redis, eventually, free_port, jwt};

fn internal() -> String {
    jwt(JWT_SECRET, "service", json!({"scope": "other internal"}))
}

fn not_found() -> (u16, Value) {
    (404, json!({"error": "not_found"}))
}

fn auth_word(service: &Service) -> Value {
    let log = service.process.stdout();
    let first = log
        .lines()
        .find(|line| line.contains("runtime service listening"))
        .unwrap();
    serde_json::from_str::<Value>(first).unwrap()["auth"].clone()
}

#[tokio::test]
async fn a_bearer_needs_the_scope_and_is_told_what_is_wrong() {
    let service = Service::start(&[("JWT_SECRET", JWT_SECRET)]).await;
    let ask = |bearer: &str| service.get("/nowhere").header("authorization", bearer);
    for (bearer, status, error, message) in [
        (
            "Token x",
            401,
            "unauthorized",
            "Invalid authorization header format",
        ),
        ("Bearer sk_agent_unknown", 401, "unauthorized", "Invalid API key"),
        ("Bearer a.b", 401, "unauthorized", "Invalid token format"),
        (
            &format!("Bearer {}", jwt("other", "u", json!({}))),
            401,
            "unauthorized",
            "Invalid or expired token",
        ),
        (
            &format!("Bearer {}", jwt(JWT_SECRET, "u", json!({"exp": 1}))),
            401,
            "unauthorized",
            "Token expired",
        ),
        (
            &format!("Bearer {}", jwt(JWT_SECRET, "", json!({}))),
            401,
            "unauthorized",
            "Invalid token: no user ID",
        ),
        (
            &format!("Bearer {}", jwt(JWT_SECRET, "u", json!({"scope": "internally"}))),
            403,
            "forbidden",
            "scope internal is required",
        ),
    ] {
        let answer = ask(bearer).send().await.unwrap();
        assert_eq!(
            answer.headers().contains_key("www-authenticate"),
            status == 401,
            "{bearer}"
        );
        assert_eq!(
            crate::service::json_of(answer).await,
            (status, refusal(error, message)),
            "{bearer}"
        );
    }
}

#[tokio::test]
async fn a_bearer_with_the_scope_is_let_in_and_a_signature_is_nothing_without_a_secret() {
    let service = Service::start(&[("JWT_SECRET", JWT_SECRET)]).await;
    let ask = |bearer: &str| service.get("/nowhere").header("authorization", bearer);
    let missing = read(service.get("/nowhere")).await;
    assert_eq!(
        missing,
        (401, refusal("unauthorized", "Missing authorization header"))
    );
    assert_eq!(read(ask(&format!("Bearer {}", internal()))).await, not_found());
    assert_eq!(auth_word(&service), "bearer");
    let unasked = signed(service.get("/nowhere"), &claims(&json!({}))).bearer_auth(internal());
    assert_eq!(
        read(unasked).await,
        not_found(),
        "without a secret no signature is looked at"
    );
}

#[tokio::test]
async fn of_both_ways_the_signature_decides() {
    let redis = Redis::start().await;
    let url = redis.url();
    let service = Service::start(&[
        ("JWT_SECRET", JWT_SECRET),
        ("RUNTIME_SIGNATURE_SECRET", SECRET),
        ("REDIS_URL", &url),
    ])
    .await;
    assert_eq!(auth_word(&service), "signature+bearer");
    let get = || service.get("/nowhere");
    let sign = |request: RequestBuilder| signed(request, &claims(&json!({})));
    assert_eq!(read(get().bearer_auth(internal())).await, not_found());
    assert_eq!(read(sign(get())).await, not_found());
    assert_eq!(read(sign(get()).bearer_auth("wrong")).await, not_found());
    let wrong = get()
        .header("X-OA-RUNTIME-SIGNATURE", "wrong")
        .bearer_auth(internal());
    assert_eq!(
        read(wrong).await,
        (401, refusal("unauthorized", "invalid token encoding"))
    );
    assert_eq!(
        read(get()).await,
        (401, refusal("unauthorized", "missing runtime signature"))
    );
    let bearer = read(get().bearer_auth("a.b")).await;
    assert_eq!(bearer, (401, refusal("unauthorized", "Invalid token format")));
}

#[tokio::test]
async fn without_any_key_only_loopback_is_open() {
    let open = Service::start(&[]).await;
    assert_eq!(read(open.get("/nowhere")).await, not_found());
    assert_eq!(auth_word(&open), "none");
    let log = open.process.stdout();
    assert!(log.contains("internal routes are open on loopback only"), "{log}");
    let db_url = Postgres::shared().await.migrated_database().await;
    let port = free_port();
    let settings = [("DATABASE_URL", db_url.as_str())];
    let everywhere = program(port, &settings).env("RUNTIME_BIND_ADDR", format!("0.0.0.0:{port}"));
    let process = everywhere.start();
    let url = format!("http://127.0.0.1:{port}");
    eventually(SOON, || async {
        client().get(format!("{url}/healthz")).send().await.is_ok()
    })
    .await;
    let closed = refusal(
        "unauthorized",
        "no authentication is configured for this bind address",
    );
    for path in ["runs", "nowhere"] {
        let asked = client().get(format!("{url}/internal/v1/{path}"));
        assert_eq!(read(asked).await, (401, closed.clone()));
    }
    assert_eq!(
        read(client().get(format!("{url}/internal/v1/health"))).await.0,
        200
    );
    let log = process.stdout();
    assert!(
        log.contains("internal routes are closed: no authentication configured"),
        "{log}"
    );
}
