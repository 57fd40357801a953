//! Health, unavailability, shutdown, and the shape of refusals.

use crate::service::{SOON, Service, json_of, program, read, refusal};
use reqwest::Method;
use serde_json::json;
use testkit::{Postgres, eventually, free_port};
use uuid::Uuid;

#[tokio::test]
async fn health_bodies_have_their_keys_in_the_documented_order() {
    let settings = [("RUNTIME_SERVICE_NAME", "rt"), ("RUNTIME_BUILD_SHA", "abc")];
    let service = Service::start(&settings).await;
    let body = async |path: &str| {
        let answer = service.request(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.text().await.unwrap()
    };
    let healthz = body("/healthz").await;
    let (before, after) = healthz.split_once("\"uptime_seconds\":").unwrap();
    assert_eq!(before, r#"{"status":"ok","service":"rt","build_sha":"abc","#);
    let number = after.split(',').next().unwrap();
    assert!(number.parse::<u64>().is_ok(), "{healthz}");
    assert!(after.ends_with(r#","authority_write_mode":"rust_active","authority_writer_active":true}"#));
    let expected = r#"{"status":"ready","authority_ready":true,"projector_ready":true,"workers_ready":true,"authority_writer_active":true}"#;
    assert_eq!(body("/readyz").await, expected);
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!(r#"{{"status":"ok","service":"rt","version":"{version}"}}"#);
    assert_eq!(body("/internal/v1/health").await, expected);
    assert!(body("/metrics").await.contains("runtime_http_requests_total{"));
}

#[tokio::test]
async fn while_postgres_is_away_routes_say_unavailable_and_the_process_lives() {
    let mut postgres = Postgres::start().await;
    let db_url = postgres.migrated_database().await;
    let service = Service::on(&db_url, &[]).await;
    let run = service.run(&json!({})).await;
    postgres.stop();
    let away = (503, refusal("unavailable", "run store is unavailable"));
    let event = json!({"event_type": "step"});
    for request in [
        service.post("/runs", &json!({})),
        service.post(&format!("/runs/{run}/events"), &event),
        service.get(&format!("/runs/{run}")),
        service.get(&format!("/projectors/checkpoints/{run}")),
        service.get(&format!("/projectors/run-summary/{run}")),
        service.get(&format!("/projectors/drift?topic=run:{run}:events")),
    ] {
        assert_eq!(read(request).await, away);
    }
    assert_eq!(read(service.request(Method::GET, "/healthz")).await.0, 200);
    assert_eq!(read(service.get("/health")).await.0, 200);
    eventually(SOON, || async {
        read(service.request(Method::GET, "/readyz")).await.0 == 503
    })
    .await;
    let (_, ready) = read(service.request(Method::GET, "/readyz")).await;
    assert_eq!(
        (
            &ready["status"],
            &ready["authority_ready"],
            &ready["authority_writer_active"]
        ),
        (&json!("not_ready"), &json!(false), &json!(true))
    );
    postgres.restart().await;
    service.until_ready().await;
    assert_eq!(read(service.get(&format!("/runs/{run}"))).await.0, 200);
}

#[tokio::test]
async fn a_start_without_postgres_answers_meanwhile_and_ends_with_69() {
    let nowhere = format!("postgres://u:p@127.0.0.1:{}/d", free_port());
    let port = free_port();
    let settings = [
        ("DATABASE_URL", nowhere.as_str()),
        ("STARTUP_TIMEOUT_SECONDS", "3"),
    ];
    let mut process = program(port, &settings).start();
    let url = format!("http://127.0.0.1:{port}");
    eventually(SOON, || async {
        let answer = crate::service::client()
            .get(format!("{url}/healthz"))
            .send()
            .await;
        answer.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let answer = read(crate::service::client().get(format!("{url}/internal/v1/runs/x"))).await;
    assert_eq!(answer, (503, refusal("unavailable", "run store is unavailable")));
    assert_eq!(process.wait(SOON).await.code(), Some(69));
}

#[tokio::test]
async fn sigterm_ends_the_service_with_0() {
    let mut service = Service::start(&[
        ("RUNTIME_EVENT_LOG_PATH", "/x"),
        ("RUNTIME_CHECKPOINT_PATH", "/y"),
    ])
    .await;
    service.process.term();
    assert_eq!(service.process.wait(SOON).await.code(), Some(0));
    let log = service.process.stdout();
    let ignored: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("setting ignored"))
        .collect();
    assert_eq!(ignored.len(), 1, "{log}");
    assert!(
        ignored[0].contains("RUNTIME_EVENT_LOG_PATH, RUNTIME_CHECKPOINT_PATH"),
        "{log}"
    );
}

#[tokio::test]
async fn what_comes_before_a_handler_is_refused_in_one_shape() {
    let service = Service::start(&[("RUNTIME_MAX_BODY_BYTES", "1000")]).await;
    let run = service.run(&json!({})).await;
    let runs = "/internal/v1/runs";
    let events = format!("{runs}/{run}/events");
    let raw = |path: &str, kind: &str, body: &str| {
        let request = service.request(Method::POST, path).header("content-type", kind);
        request.body(body.to_owned())
    };
    let (json_type, invalid) = ("application/json", "invalid_request");
    let long = format!(r#"{{"metadata":"{}"}}"#, "x".repeat(1000));
    let negative = r#"{"event_type":"a","expected_previous_seq":-1}"#;
    let post = |path: &str, body: &str| raw(path, json_type, body);
    for (request, status, error) in [
        (post(runs, ""), 400, invalid),
        (post(runs, "{"), 400, invalid),
        (post(runs, "7"), 422, invalid),
        (raw(runs, "text/plain", "{}"), 415, invalid),
        (post(runs, &long), 413, "payload_too_large"),
        (post(&events, "{}"), 422, invalid),
        (post(&events, r#"{"event_type":"a\u0000b"}"#), 422, invalid),
        (post(&events, negative), 422, invalid),
        (post("/internal/v1/runs/x/events", negative), 400, invalid),
        (
            service.get(&format!("/runs/{run}?events_limit=1001")),
            400,
            invalid,
        ),
        (service.request(Method::PUT, runs), 405, "method_not_allowed"),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert!(answer.headers().contains_key("x-request-id"));
        let (code, body) = json_of(answer).await;
        assert_eq!((code, &body["error"]), (status, &json!(error)), "{body}");
        let keys: Vec<_> = body.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["error", "message"]);
    }
}

#[tokio::test]
async fn what_is_unknown_has_no_message_and_an_answer_carries_allow_and_request_id() {
    let service = Service::start(&[]).await;
    let events = format!("/internal/v1/runs/{}/events", Uuid::nil());
    let unknown = (404, json!({"error": "not_found"}));
    assert_eq!(
        read(service.get(&format!("/runs/{}", Uuid::nil()))).await,
        unknown
    );
    let event = service.post(
        &format!("/runs/{}/events", Uuid::nil()),
        &json!({"event_type": "a"}),
    );
    assert_eq!(read(event).await, unknown);
    let other = service.request(Method::DELETE, &events).send().await.unwrap();
    assert_eq!(other.headers()["allow"], "POST");
    let traced = service
        .get("/nowhere")
        .header("x-request-id", "my-1")
        .send()
        .await
        .unwrap();
    assert_eq!(traced.headers()["x-request-id"], "my-1");
}
