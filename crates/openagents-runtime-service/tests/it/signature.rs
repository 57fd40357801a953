//! Signed requests: what is refused and how, what a nonce is worth.

use crate::service::{SECRET, SOON, Service, claims, header, json_of, now, program, read, refusal, signed};
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Postgres, Redis, eventually, free_port};
use uuid::Uuid;

async fn start() -> (Service, Redis) {
    let redis = Redis::start().await;
    let db_url = Postgres::shared().await.migrated_database().await;
    (Service::signed(&redis, &db_url).await, redis)
}

fn unauthorized(message: &str) -> (u16, Value) {
    (401, refusal("unauthorized", message))
}

#[tokio::test]
async fn every_fault_of_the_header_has_its_own_text_before_any_other_check() {
    let (service, _redis) = start().await;
    let good = header(&claims(&json!({})), SECRET);
    let at = |iat: i64, exp: i64| header(&json!({"iat": iat, "exp": exp, "nonce": "n"}), SECRET);
    let cases = [
        ("x.y".to_owned(), "invalid token encoding"),
        (format!("{good}="), "invalid token encoding"),
        (header(&claims(&json!({})), "other"), "invalid token signature"),
        (header(&json!({"iat": now()}), SECRET), "invalid token claims"),
        (at(now() - 60, now() - 1), "token expired"),
        (at(now() + 60, now() + 90), "token issued in the future"),
    ];
    for path in ["/runs", "/nowhere", "/runs/nonsense", "/projectors/drift"] {
        assert_eq!(
            read(service.get(path)).await,
            unauthorized("missing runtime signature"),
            "{path}"
        );
        for (value, message) in &cases {
            let request = service.get(path).header("X-OA-RUNTIME-SIGNATURE", value);
            assert_eq!(read(request).await, unauthorized(message), "{path} {value}");
        }
    }
    let no_text = reqwest::header::HeaderValue::from_bytes(b"v1.\xff").unwrap();
    let request = service.get("/runs").header("X-OA-RUNTIME-SIGNATURE", no_text);
    assert_eq!(read(request).await, unauthorized("invalid token format"));
    let twice = signed(
        signed(service.get("/nowhere"), &claims(&json!({}))),
        &claims(&json!({})),
    );
    assert_eq!(read(twice).await, unauthorized("invalid token encoding"));
    let answer = service.get("/runs").send().await.unwrap();
    assert_eq!(answer.headers()["www-authenticate"], "Bearer");
    let past = signed(service.get("/nowhere"), &claims(&json!({})));
    assert_eq!(read(past).await, (404, json!({"error": "not_found"})));
    let log = service.process.stdout();
    let first = log
        .lines()
        .find(|line| line.contains("runtime service listening"))
        .unwrap();
    let first: Value = serde_json::from_str(first).unwrap();
    assert_eq!(
        (&first["auth"], &first["service"]),
        (&json!("signature"), &json!("runtime"))
    );
}

#[tokio::test]
async fn claims_must_say_what_the_path_says() {
    let (service, _redis) = start().await;
    let made = signed(service.post("/runs", &json!({})), &claims(&json!({})));
    let (status, made) = read(made).await;
    assert_eq!(status, 201, "{made}");
    let run = made["run"]["id"].as_str().unwrap();
    let path = format!("/runs/{run}");
    let differs = |claim: &str| (403, refusal("forbidden", &format!("claim mismatch for {claim}")));
    let none = json!({});
    let own = json!({"run_id": run});
    let get = |claims_: &Value| signed(service.get(&path), &claims(claims_));
    assert_eq!(read(get(&none)).await, differs("run_id"));
    assert_eq!(
        read(get(&json!({"run_id": Uuid::nil()}))).await,
        differs("run_id")
    );
    assert_eq!(read(get(&own)).await.0, 200);
    for path in ["projectors/checkpoints", "projectors/run-summary"] {
        let get = |claims_: &Value| signed(service.get(&format!("/{path}/{run}")), &claims(claims_));
        assert_eq!(read(get(&none)).await, differs("run_id"), "{path}");
        assert_eq!(read(get(&own)).await.0, 200, "{path}");
    }
}

#[tokio::test]
async fn a_body_and_the_callers_headers_are_part_of_what_is_claimed() {
    let (service, _redis) = start().await;
    let (_, made) = read(signed(service.post("/runs", &json!({})), &claims(&json!({})))).await;
    let run = made["run"]["id"].as_str().unwrap();
    let path = format!("/runs/{run}");
    let differs = |claim: &str| (403, refusal("forbidden", &format!("claim mismatch for {claim}")));
    let (none, own) = (json!({}), json!({"run_id": run}));
    let get = |claims_: &Value| signed(service.get(&path), &claims(claims_));
    let in_body = |body: &Value, claims_: &Value| signed(service.post("/runs", body), &claims(claims_));
    assert_eq!(read(in_body(&own, &none)).await, differs("run_id"));
    assert_eq!(
        read(in_body(&json!({"thread_id": "t"}), &none)).await,
        differs("thread_id")
    );
    assert_eq!(
        read(in_body(&json!({"thread_id": "t"}), &json!({"thread_id": "t"})))
            .await
            .0,
        201
    );
    let event = json!({"event_type": "step", "run_id": Uuid::nil()});
    let append = signed(service.post(&format!("{path}/events"), &event), &claims(&own));
    assert_eq!(read(append).await, differs("run_id"), "path and body disagree");
    let query = signed(service.get(&format!("{path}?thread_id=t")), &claims(&own));
    assert_eq!(read(query).await, differs("thread_id"));
    for (name, value, claim, good) in [
        (
            "x-oa-user-id",
            "7",
            "user_id",
            json!({"run_id": run, "user_id": 7}),
        ),
        (
            "x-oa-user-id",
            "u",
            "user_id",
            json!({"run_id": run, "user_id": "u"}),
        ),
        (
            "x-oa-guest-scope",
            "g",
            "guest_scope",
            json!({"run_id": run, "guest_scope": "g"}),
        ),
    ] {
        assert_eq!(read(get(&own).header(name, value)).await, differs(claim));
        assert_eq!(read(get(&good).header(name, value)).await.0, 200);
    }
    assert_eq!(
        read(get(&json!({"run_id": run, "user_id": "7"})).header("x-oa-user-id", "7")).await,
        differs("user_id")
    );
}

#[tokio::test]
async fn a_nonce_is_used_up_by_the_first_request_that_passes_all_else() {
    let (service, redis) = start().await;
    let id = Uuid::nil().to_string();
    let path = format!("/runs/{id}");
    let claims = claims(&json!({"run_id": id}));
    let refused = signed(service.get(&format!("/runs/{}", Uuid::max())), &claims);
    assert_eq!(read(refused).await.0, 403);
    let long = "x".repeat(2_097_153);
    let refused = signed(
        service.request(Method::POST, &format!("/internal/v1{path}/events")),
        &claims,
    );
    let (status, answer) = read(refused.body(long)).await;
    assert_eq!((status, &answer["error"]), (413, &json!("payload_too_large")));
    let unknown = (404, json!({"error": "not_found"}));
    assert_eq!(read(signed(service.get(&path), &claims)).await, unknown);
    for _ in 0..2 {
        let again = read(signed(service.get(&path), &claims)).await;
        assert_eq!(again, unauthorized("token nonce already used"));
    }
    let keys = redis.cli(&["KEYS", "runtime:nonce:*"]);
    let life: i64 = redis.cli(&["TTL", keys.trim()]).trim().parse().unwrap();
    assert!(
        (30..=90).contains(&life),
        "one key that ends with the token: {keys} {life}"
    );
}

#[tokio::test]
async fn nonces_are_shared_by_replicas_and_kept_over_restarts() {
    let (service, mut redis) = start().await;
    let other = Service::signed(&redis, &service.db_url).await;
    let token = claims(&json!({}));
    let asked = (0..16).map(|turn| {
        let replica = if turn % 2 == 0 { &service } else { &other };
        read(signed(replica.get("/nowhere"), &token))
    });
    let answers = futures::future::join_all(asked).await;
    let passed = answers.iter().filter(|(status, _)| *status == 404).count();
    assert_eq!(passed, 1, "{answers:?}");
    assert!(
        answers.iter().all(|(status, _)| matches!(status, 404 | 401)),
        "{answers:?}"
    );
    drop((service, other));
    redis.stop();
    redis.restart().await;
    let db_url = Postgres::shared().await.migrated_database().await;
    let later = Service::signed(&redis, &db_url).await;
    let again = read(signed(later.get("/nowhere"), &token)).await;
    assert_eq!(again, unauthorized("token nonce already used"));
}

#[tokio::test]
async fn without_redis_nobody_is_let_in_and_nothing_is_written() {
    let (service, mut redis) = start().await;
    redis.stop();
    let request = || signed(service.post("/runs", &json!({})), &claims(&json!({})));
    let answer = request().send().await.unwrap();
    assert!(answer.headers().contains_key("retry-after"));
    let expected = (503, refusal("unavailable", "replay guard is unavailable"));
    assert_eq!(json_of(answer).await, expected);
    let wrong = service.get("/runs").header("X-OA-RUNTIME-SIGNATURE", "x");
    assert_eq!(
        read(wrong).await,
        unauthorized("invalid token encoding"),
        "the guard is asked last"
    );
    redis.restart().await;
    eventually(SOON, || async { read(request()).await.0 == 201 }).await;
}

#[tokio::test]
async fn a_secret_without_redis_ends_the_start_with_64() {
    let settings = [
        ("DATABASE_URL", "postgres://u:p@127.0.0.1:1/d"),
        ("RUNTIME_SIGNATURE_SECRET", "s"),
    ];
    let mut process = program(free_port(), &settings).start();
    assert_eq!(process.wait(SOON).await.code(), Some(64));
    assert_eq!(
        process.stderr(),
        "missing required settings: REDIS_URL (or DRAGONFLY_HOST)\n"
    );
}
