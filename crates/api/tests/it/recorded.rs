//! Receipts, replays, workers and the hash chain over HTTP, and a process that is killed while it writes.

use crate::harness::{Api, SECRET, program, read};
use domain::canonical::sha256_hex;
use futures::future::join_all;
use reqwest::{Client, Response};
use runs::{ChainReport, Db, runtime_runs};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use testkit::{eventually, free_port, jwt};
use uuid::Uuid;

async fn asked(api: &Api, path: &str) -> Response {
    let request = api.client.get(format!("{}/internal/v1{path}", api.internal));
    let token = jwt(SECRET, "service", json!({"scope": "internal"}));
    request.bearer_auth(token).send().await.unwrap()
}

async fn get(api: &Api, path: &str) -> (u16, Value) {
    read(asked(api, path).await).await
}

async fn post(api: &Api, path: &str, body: Value) -> (u16, Value) {
    let request = api.client.post(format!("{}/internal/v1{path}", api.internal));
    let token = jwt(SECRET, "service", json!({"scope": "internal"}));
    read(request.bearer_auth(token).json(&body).send().await.unwrap()).await
}

fn refused(message: &str) -> Value {
    json!({"error": "invalid_request", "message": message})
}

#[tokio::test]
async fn receipt_and_replay_are_served_as_the_contract_shows() {
    let api = Api::start().await;
    let (_, made) = post(
        &api,
        "/runs",
        json!({"metadata": {"policy_bundle_id": "policy.x"}}),
    )
    .await;
    let id = made["run"]["id"].as_str().unwrap();
    let finish = json!({"event_type": "run.finished", "payload": {"status": "failed", "a": 1}, "idempotency_key": "f"});
    let (status, _) = post(&api, &format!("/runs/{id}/events"), finish).await;
    assert_eq!(status, 200);
    let receipt = asked(&api, &format!("/runs/{id}/receipt")).await;
    assert_eq!(
        (receipt.status().as_u16(), &receipt.headers()["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    let receipt = receipt.text().await.unwrap();
    assert!(
        receipt.starts_with("{\"schema\":\"openagents.receipt.v1\",\"session_id\":\""),
        "{receipt}"
    );
    assert!(receipt.contains("\"policy_bundle_id\":\"policy.x\"") && receipt.contains("\"event_count\":2"));
    let replay = asked(&api, &format!("/runs/{id}/replay")).await;
    assert_eq!(replay.headers()["content-type"], "application/x-ndjson");
    let replay = replay.text().await.unwrap();
    let types: Vec<Value> = replay
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].clone())
        .collect();
    assert_eq!(
        types,
        [
            "ReplayHeader",
            "SessionStart",
            "RuntimeEvent",
            "RuntimeEvent",
            "SessionEnd"
        ]
    );
    assert!(replay.ends_with("\"status\":\"failure\",\"confidence\":0.0,\"total_tool_calls\":0}\n"));
    for (path, text) in [("receipt", &receipt), ("replay", &replay)] {
        let again = asked(&api, &format!("/runs/{id}/{path}"))
            .await
            .text()
            .await
            .unwrap();
        assert_eq!(sha256_hex(&again), sha256_hex(text), "{path}");
        let unknown = get(&api, &format!("/runs/{}/{path}", Uuid::nil())).await;
        assert_eq!(unknown, (404, json!({"error": "not_found"})));
        assert_eq!(get(&api, &format!("/runs/nonsense/{path}")).await.0, 400);
    }
}

#[tokio::test]
async fn workers_register_beat_change_state_and_are_guarded_by_their_owner() {
    let api = Api::start_with(&[("RUNTIME_HEARTBEAT_STALE_AFTER_MS", "60000")]).await;
    let body =
        json!({"worker_id": "d:1", "owner_user_id": 7, "owner_guest_scope": " ", "metadata": {"a": 1}});
    let (status, made) = post(&api, "/workers", body.clone()).await;
    assert_eq!(status, 201, "{made}");
    let (inner, liveness) = (&made["worker"]["worker"], &made["worker"]["liveness"]);
    assert_eq!(
        (&inner["latest_seq"], &inner["status"]),
        (&json!(1), &json!("running"))
    );
    assert_eq!(
        (
            &liveness["heartbeat_state"],
            &liveness["heartbeat_stale_after_ms"]
        ),
        (&json!("fresh"), &json!(60_000))
    );
    assert_eq!(post(&api, "/workers", body).await.0, 201, "again");
    let beat = json!({"owner_user_id": 7, "metadata_patch": {"b": {"password": "p"}}});
    let (status, beat) = post(&api, "/workers/d%3A1/heartbeat", beat).await;
    assert_eq!(
        (status, &beat["worker"]["worker"]["metadata"]),
        (200, &json!({"a": 1, "b": {"password": "[REDACTED]"}}))
    );
    let stop = json!({"owner_user_id": 7, "status": "stopping", "reason": "drain"});
    assert_eq!(post(&api, "/workers/d:1/status", stop).await.0, 200);
    let run = json!({"owner_user_id": 7, "status": "running"});
    let text = refused("invalid worker transition from Stopping to Running");
    assert_eq!(post(&api, "/workers/d:1/status", run).await, (400, text));
    let (status, shown) = get(&api, "/workers/d:1?owner_user_id=7").await;
    assert_eq!(
        (status, &shown["worker"]["worker"]["status"]),
        (200, &json!("stopping"))
    );
    for path in [
        "/workers/d:1/checkpoint",
        "/workers/d:1/checkpoint?owner_user_id=7",
    ] {
        let (status, checkpoint) = get(&api, path).await;
        let checkpoint = &checkpoint["checkpoint"];
        assert_eq!((status, &checkpoint["last_seq"]), (200, &json!(4)));
        assert_eq!(checkpoint["topic"], "worker:d:1:lifecycle");
        assert_eq!(checkpoint["last_event_type"], "worker.stopping");
    }
}

#[tokio::test]
async fn wrong_requests_for_workers_are_refused_with_their_texts() {
    let api = Api::start().await;
    let made = json!({"worker_id": "w", "owner_guest_scope": "g"});
    post(&api, "/workers", made).await;
    foreign_and_unknown_owners_are_refused(&api).await;
    wrong_shapes_are_refused(&api).await;
    assert_eq!(get(&api, "/workers/w%00?owner_user_id=1").await.0, 400);
    let (_, shown) = get(&api, "/workers/w?owner_guest_scope=g").await;
    let seq = &shown["worker"]["worker"]["latest_seq"];
    assert_eq!(seq, 1, "refusals write nothing");
}

async fn foreign_and_unknown_owners_are_refused(api: &Api) {
    let one_owner = || {
        (
            400,
            refused("owner_user_id or owner_guest_scope must be provided (but not both)"),
        )
    };
    let foreign = || {
        (
            403,
            json!({"error": "forbidden", "message": "owner mismatch for worker w"}),
        )
    };
    let unknown = || (404, json!({"error": "not_found"}));
    for (path, answer) in [
        ("/workers/w", one_owner()),
        ("/workers/w?owner_user_id=1&owner_guest_scope=g", one_owner()),
        ("/workers/w?owner_user_id=1", foreign()),
        ("/workers/w/checkpoint?owner_guest_scope=h", foreign()),
        (
            "/workers/w/checkpoint?owner_user_id=1&owner_guest_scope=g",
            one_owner(),
        ),
        ("/workers/x?owner_user_id=1", unknown()),
        ("/workers/x/checkpoint", unknown()),
        (
            "/workers/w?owner_user_id=-1",
            (400, refused("owner_user_id must be an integer >= 0")),
        ),
    ] {
        assert_eq!(get(api, path).await, answer, "{path}");
    }
    for (path, body, answer) in [
        ("/workers", json!({"worker_id": "w"}), one_owner()),
        (
            "/workers",
            json!({"worker_id": "w", "owner_user_id": 1, "owner_guest_scope": "g"}),
            one_owner(),
        ),
        (
            "/workers",
            json!({"worker_id": "w", "owner_user_id": 1}),
            foreign(),
        ),
        ("/workers/w/heartbeat", json!({}), one_owner()),
        ("/workers/w/heartbeat", json!({"owner_user_id": 1}), foreign()),
        ("/workers/x/heartbeat", json!({"owner_user_id": 1}), unknown()),
        (
            "/workers/x/status",
            json!({"owner_user_id": 1, "status": "failed"}),
            unknown(),
        ),
    ] {
        assert_eq!(post(api, path, body.clone()).await, answer, "{path} {body}");
    }
}

async fn wrong_shapes_are_refused(api: &Api) {
    for (path, body) in [
        ("/workers", json!({"owner_user_id": "7"})),
        ("/workers", json!({"owner_user_id": -1})),
        ("/workers", json!({"owner_user_id": 1, "metadata": [1]})),
        (
            "/workers/w/heartbeat",
            json!({"owner_guest_scope": "g", "metadata_patch": "x"}),
        ),
        ("/workers/w/status", json!({"owner_guest_scope": "g"})),
        (
            "/workers/w/status",
            json!({"owner_guest_scope": "g", "status": "asleep"}),
        ),
        (
            "/workers/w/status",
            json!({"owner_guest_scope": "g", "status": "failed", "reason": "\u{0}"}),
        ),
    ] {
        let (status, answer) = post(api, path, body.clone()).await;
        assert_eq!(
            (status, &answer["error"]),
            (422, &json!("invalid_request")),
            "{body} {answer}"
        );
    }
}

/// Appends until the server is gone; the marks of the events it acknowledged.
async fn write_until_it_fails(
    client: Client,
    url: String,
    writer: usize,
    count: &AtomicUsize,
) -> Vec<String> {
    let token = jwt(SECRET, "service", json!({"scope": "internal"}));
    let mut acknowledged = vec![];
    for n in 0.. {
        let mark = format!("{writer}-{n}");
        let body = json!({"event_type": "tick", "payload": {"mark": mark}});
        let sent = client.post(&url).bearer_auth(&token).json(&body).send().await;
        let Ok(answer) = sent else { break };
        assert_eq!(answer.status(), 200);
        acknowledged.push(mark);
        count.fetch_add(1, Ordering::SeqCst);
    }
    acknowledged
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_process_is_killed_while_eight_writers_append() {
    let mut api = Api::start().await;
    let (_, made) = post(&api, "/runs", json!({})).await;
    let run = made["run"]["id"].as_str().unwrap().to_owned();
    let count = AtomicUsize::new(0);
    let url = format!("{}/internal/v1/runs/{run}/events?events_limit=1", api.internal);
    let writers = join_all((0..8).map(|n| write_until_it_fails(api.client.clone(), url.clone(), n, &count)));
    let killer = async {
        eventually(Duration::from_secs(30), || async {
            count.load(Ordering::SeqCst) >= 100
        })
        .await;
        api.process.kill();
    };
    let (acknowledged, ()) = futures::future::join(writers, killer).await;
    let acknowledged: Vec<String> = acknowledged.into_iter().flatten().collect();
    let ports = (free_port(), free_port());
    api.process = program(&api.db_url, &api.redis.url(), ports, &[]).start();
    api.internal = format!("http://127.0.0.1:{}", ports.1);
    let ready = format!("{}/readyz", api.internal);
    eventually(Duration::from_secs(20), || async {
        let answer = api.client.get(&ready).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let (_, shown) = get(&api, &format!("/runs/{run}")).await;
    let events = shown["run"]["events"].as_array().unwrap().clone();
    assert!(
        (1..)
            .zip(&events)
            .all(|(seq, event): (i64, _)| event["seq"] == seq),
        "no gap"
    );
    let stored: Vec<&str> = events
        .iter()
        .filter_map(|event| event["payload"]["mark"].as_str())
        .collect();
    for mark in &acknowledged {
        let times = stored.iter().filter(|stored| *stored == mark).count();
        assert_eq!(times, 1, "acknowledged event {mark}");
    }
    let (status, next) = post(
        &api,
        &format!("/runs/{run}/events?events_limit=1"),
        json!({"event_type": "more"}),
    )
    .await;
    assert_eq!(status, 200, "{next}");
    let db = Db::from_url(&api.db_url).unwrap();
    let chain = runtime_runs::verify(&db, run.parse().unwrap()).await.unwrap();
    assert_eq!(
        chain,
        Some(ChainReport::Intact {
            events: events.len() as u64 + 1
        })
    );
    let (_, checkpoint) = get(&api, &format!("/projectors/checkpoints/{run}")).await;
    assert_eq!(checkpoint["checkpoint"]["last_seq"], events.len() + 1);
    let drift = get(&api, &format!("/projectors/drift?topic=run:{run}:events")).await;
    assert_eq!(drift.0, 404, "{}", drift.1);
}
