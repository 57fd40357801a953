//! The internal surface.

use crate::harness::{Api, SECRET, program, read};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use std::time::Duration;
use testkit::{Postgres, Sse, eventually, free_port, jwt};
use uuid::Uuid;

fn token() -> String {
    jwt(SECRET, "service", json!({"scope": "other internal"}))
}

fn post(api: &Api, path: &str, body: &Value) -> RequestBuilder {
    let request = api.client.post(format!("{}/internal/v1{path}", api.internal));
    request.bearer_auth(token()).json(body)
}

async fn get(api: &Api, path: &str) -> (u16, Value) {
    let request = api.client.get(format!("{}/internal/v1{path}", api.internal));
    read(request.bearer_auth(token()).send().await.unwrap()).await
}

async fn sent(request: RequestBuilder) -> (u16, Value) {
    read(request.send().await.unwrap()).await
}

#[tokio::test]
async fn runs_are_created_appended_to_and_read() {
    let api = Api::start().await;
    let body = json!({"worker_id": "w-7", "metadata": {"team": "ops", "owner_user_id": 7}});
    let (status, made) = sent(post(&api, "/runs", &body)).await;
    assert_eq!(status, 201, "{made}");
    let run = &made["run"];
    assert_eq!(
        (&run["worker_id"], &run["status"], &run["metadata"]),
        (&json!("w-7"), &json!("running"), &body["metadata"])
    );
    assert_eq!(run["events"][0]["event_type"], "run.started");
    let id = run["id"].as_str().unwrap();
    let event = json!({"event_type": " step ", "payload": {"b": 1, "a": 2}, "idempotency_key": "k", "expected_previous_seq": 1});
    let path = format!("/runs/{id}/events");
    let (status, first) = sent(post(&api, &path, &event)).await;
    assert_eq!(
        (status, &first["run"]["events"][1]["event_type"]),
        (200, &json!("step"))
    );
    let replay = post(&api, &path, &event).send().await.unwrap();
    assert_eq!(replay.headers()["idempotent-replay"], "true");
    assert_eq!(read(replay).await.1, first);
    let other = json!({"event_type": "step", "payload": 1, "idempotency_key": "k"});
    let (status, answer) = sent(post(&api, &path, &other)).await;
    assert_eq!(
        (status, &answer["error"], &answer["message"]),
        (
            409,
            &json!("conflict"),
            &json!("idempotency_key already used for a different event")
        )
    );
    let stale = json!({"event_type": "step", "expected_previous_seq": 0});
    let (_, answer) = sent(post(&api, &path, &stale)).await;
    assert_eq!(
        answer["message"],
        "expected_previous_seq 0 does not match actual previous seq 2"
    );
    assert_eq!(get(&api, &format!("/runs/{id}")).await, (200, first.clone()));
    let (_, cut) = get(&api, &format!("/runs/{id}?events_after=1&events_limit=1")).await;
    assert_eq!(cut["run"]["events"].as_array().unwrap().len(), 1);
    assert_eq!(get(&api, &format!("/runs/{id}?events_limit=0")).await.0, 400);
    let (_, checkpoint) = get(&api, &format!("/projectors/checkpoints/{id}")).await;
    assert_eq!(
        (
            &checkpoint["checkpoint"]["last_seq"],
            &checkpoint["checkpoint"]["last_event_type"]
        ),
        (&json!(2), &json!("step"))
    );
    let (status, summary) = get(&api, &format!("/projectors/run-summary/{id}")).await;
    assert_eq!((status, &summary["summary"]["event_count"]), (200, &json!(2)));
    let seen = api.done("7", json!({"action": "status", "run_id": id})).await;
    assert_eq!(
        seen["status"], "executing",
        "the owner sees the run on the public surface"
    );
}

#[tokio::test]
async fn refusals_before_a_handler_have_one_shape() {
    let api = Api::start().await;
    let url = format!("{}/internal/v1/runs", api.internal);
    let raw = |kind: &str, body: &str| {
        let request = api
            .client
            .post(&url)
            .bearer_auth(token())
            .header("content-type", kind);
        request.body(body.to_owned())
    };
    let json_type = "application/json; charset=utf-8";
    for (request, status) in [
        (raw(json_type, ""), 400),
        (raw(json_type, "{bad"), 400),
        (raw(json_type, "[]"), 422),
        (raw(json_type, r#"{"worker_id":7}"#), 422),
        (raw(json_type, r#"{"metadata":{"a":"\u0000"}}"#), 422),
        (raw("text/plain", "{}"), 415),
    ] {
        let (code, answer) = sent(request).await;
        assert_eq!(
            (code, &answer["error"]),
            (status, &json!("invalid_request")),
            "{answer}"
        );
        assert!(answer["message"].is_string());
    }
    let long = format!(r#"{{"metadata":"{}"}}"#, "x".repeat(2_097_152));
    let (code, answer) = sent(raw(json_type, &long)).await;
    assert_eq!((code, &answer["error"]), (413, &json!("payload_too_large")));
    assert_eq!(get(&api, "/runs/nonsense").await.0, 400);
    let unknown = (404, json!({"error": "not_found"}));
    assert_eq!(get(&api, &format!("/runs/{}", Uuid::nil())).await, unknown);
    assert_eq!(get(&api, "/nowhere").await, unknown);
    let answer = api.client.delete(&url).bearer_auth(token()).send().await.unwrap();
    assert_eq!(answer.headers()["allow"], "POST");
    assert_eq!(read(answer).await.1["error"], "method_not_allowed");
    let missing = post(&api, &format!("/runs/{}/events", Uuid::nil()), &json!({}));
    assert_eq!(sent(missing).await.0, 422);
}

#[tokio::test]
async fn authentication_comes_first_and_needs_the_scope() {
    let api = Api::start().await;
    let ask = async |path: &str, token: Option<String>| {
        let mut request = api.client.get(format!("{}{path}", api.internal));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        read(request.send().await.unwrap()).await
    };
    for path in [
        "/internal/v1/runs",
        "/internal/v1/nowhere",
        "/internal/v1/runs/nonsense",
    ] {
        let (status, answer) = ask(path, None).await;
        let expected = json!({"error": "unauthorized", "message": "Missing authorization header"});
        assert_eq!((status, answer), (401, expected), "{path}");
        let (status, answer) = ask(path, Some(Api::token("u"))).await;
        let expected = json!({"error": "forbidden", "message": "scope internal is required"});
        assert_eq!((status, answer), (403, expected), "{path}");
    }
    let (status, health) = ask("/internal/v1/health", None).await;
    assert_eq!(
        (status, &health["status"], &health["service"]),
        (200, &json!("ok"), &json!("runtime"))
    );
    let (status, health) = ask("/healthz", None).await;
    assert_eq!(status, 200);
    assert_eq!(
        (&health["build_sha"], &health["authority_writer_active"]),
        (&json!("dev"), &json!(true))
    );
    let (status, ready) = ask("/readyz", None).await;
    let expected = json!({"status": "ready", "authority_ready": true, "projector_ready": true,
        "workers_ready": true, "authority_writer_active": true});
    assert_eq!((status, ready), (200, expected));
}

#[tokio::test]
async fn the_internal_surface_alone_needs_no_redis_and_no_key_on_loopback() {
    let db_url = Postgres::shared().await.migrated_database().await;
    let ports = (free_port(), free_port());
    let extra = [
        ("API_SURFACES", "internal"),
        ("JWT_SECRET", ""),
        ("REDIS_URL", ""),
    ];
    let process = program(&db_url, "", ports, &extra).start();
    let client = crate::harness::client();
    let base = format!("http://127.0.0.1:{}", ports.1);
    eventually(Duration::from_secs(20), || async {
        let answer = client.get(format!("{base}/readyz")).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let sent = client
        .post(format!("{base}/internal/v1/runs"))
        .json(&json!({}))
        .send()
        .await;
    assert_eq!(sent.unwrap().status(), 201);
    assert!(
        client
            .get(format!("http://127.0.0.1:{}/health", ports.0))
            .send()
            .await
            .is_err()
    );
    let log = process.stdout();
    assert!(log.contains("internal routes are open on loopback only"), "{log}");
    assert!(log.contains("runtime service listening"), "{log}");
}

#[tokio::test]
async fn a_frozen_authority_refuses_writes_on_both_surfaces() {
    let api = Api::start_with(&[("RUNTIME_AUTHORITY_WRITE_MODE", "read_only")]).await;
    let request = api
        .client
        .post(format!("{}/internal/v1/runs", api.internal))
        .bearer_auth(token());
    let (status, answer) = sent(request.body("not even json")).await;
    let expected = json!({"error": "write_path_frozen",
        "message": "runtime authority writes are disabled in mode read_only"});
    assert_eq!((status, answer), (503, expected));
    let (status, answer) = api.execute("u", json!({"action": "create", "prompt": "x"})).await;
    assert_eq!((status, &answer["code"]), (503, &json!("unavailable")));
    assert_eq!(api.done("u", json!({"action": "list"})).await["status"], "ok");
}

#[tokio::test]
async fn events_appended_here_reach_public_streams() {
    let api = Api::start().await;
    let (_, made) = sent(post(&api, "/runs", &json!({"metadata": {"owner_user_id": "u"}}))).await;
    let run = made["run"]["id"].as_str().unwrap().parse().unwrap();
    let mut stream = Sse::connect(&api.stream_url(run, ""), Some(&Api::token("u")), None).await;
    let connected = stream.next(Duration::from_secs(5)).await.unwrap();
    assert_eq!(connected.json()["type"], "connected");
    assert_eq!(stream.next(Duration::from_secs(5)).await.unwrap().id, Some(1));
    let finish = json!({"event_type": "run.finished", "payload": {"status": "succeeded"}});
    sent(post(&api, &format!("/runs/{run}/events"), &finish)).await;
    let last = stream.next(Duration::from_secs(5)).await.unwrap();
    assert_eq!(
        (last.id, &last.json()["type"], &last.json()["status"]),
        (Some(2), &json!("complete"), &json!("completed"))
    );
}
