//! Workers as `/internal/v1/workers` knows them.

use crate::support::{Store, ids, store};
use futures::future::join_all;
use jiff::SignedDuration;
use runs::workers::{Registration, Worker, WorkerOwner, WorkerStatus};
use runs::{RuntimeError, Workers};
use serde_json::{Map, Value, json};
use std::sync::Arc;

const OWNER: WorkerOwner = WorkerOwner::User(7);

fn workers(store: &Store) -> Workers {
    Workers::new(store.db.clone(), Arc::new(store.clock.clone()), ids(), 120_000)
}

fn members(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn registration(worker_id: &str, metadata: &Value) -> Registration {
    Registration {
        worker_id: Some(worker_id.to_owned()),
        owner: OWNER,
        workspace_ref: Some("ws".to_owned()),
        codex_home_ref: None,
        adapter: None,
        metadata: members(metadata),
    }
}

async fn event_types(store: &Store) -> Vec<String> {
    let sql = "SELECT seq, event_type FROM runtime.worker_events ORDER BY worker_id, seq";
    let rows = store.psql().await.query(sql, &[]).await.unwrap();
    rows.iter()
        .map(|row| format!("{} {}", row.get::<_, i64>(0), row.get::<_, &str>(1)))
        .collect()
}

#[tokio::test]
async fn a_fresh_worker_looks_as_the_contract_shows() {
    let store = store().await;
    let workers = workers(&store);
    let made = workers
        .register(registration("d:1", &json!({"a": 1})))
        .await
        .unwrap();
    let at = "2026-11-20T17:00:00.000000Z";
    let expected = json!({
        "worker": {"worker_id": "d:1", "owner": {"user_id": 7, "guest_scope": null}, "workspace_ref": "ws",
            "codex_home_ref": null, "adapter": "in_memory", "status": "running", "latest_seq": 1,
            "metadata": {"a": 1}, "started_at": at, "stopped_at": null, "last_heartbeat_at": at, "updated_at": at},
        "liveness": {"heartbeat_age_ms": 0, "heartbeat_stale_after_ms": 120_000, "heartbeat_state": "fresh"}
    });
    assert_eq!(workers.show(&made).to_string(), expected.to_string());
    assert_eq!(workers.get("d:1", &OWNER).await.unwrap(), made);
    let checkpoint = workers.checkpoint("d:1", None).await.unwrap();
    let expected = json!({"topic": "worker:d:1:lifecycle", "last_seq": 1, "last_event_type": "worker.started",
        "updated_at": at});
    assert_eq!(checkpoint.to_string(), expected.to_string());
    let nameless = Registration {
        worker_id: Some("  ".to_owned()),
        ..registration("", &json!({}))
    };
    let made = workers.register(nameless).await.unwrap();
    let id = made.worker_id.strip_prefix("codexw_").unwrap();
    assert!(id.parse::<uuid::Uuid>().is_ok(), "{id}");
}

#[tokio::test]
async fn registering_again_merges_overwrites_and_revives() {
    let store = store().await;
    let workers = workers(&store);
    let first = workers
        .register(registration("w", &json!({"a": {"x": 1}, "b": 2})))
        .await
        .unwrap();
    let stopped = workers
        .set_status("w", &OWNER, WorkerStatus::Stopped, Some("drain".to_owned()))
        .await
        .unwrap();
    assert_eq!(stopped.stopped_at, Some(stopped.updated_at));
    store.clock.advance(SignedDuration::from_secs(1));
    let again = Registration {
        workspace_ref: None,
        codex_home_ref: Some("home".to_owned()),
        adapter: Some("other".to_owned()),
        ..registration("w", &json!({"c": 3, "a": {"y": 1}}))
    };
    let again = workers.register(again).await.unwrap();
    assert_eq!(again.metadata.to_string(), r#"{"a":{"y":1},"b":2,"c":3}"#);
    assert_eq!(
        (again.workspace_ref.as_deref(), again.adapter.as_str()),
        (None, "other")
    );
    assert_eq!(
        (again.status, again.stopped_at, again.latest_seq),
        (WorkerStatus::Running, None, 3)
    );
    assert_eq!(again.started_at, first.started_at);
    assert_eq!(again.last_heartbeat_at, Some(again.updated_at));
    let back = workers.register(registration("w", &json!({}))).await.unwrap();
    assert_eq!((back.adapter.as_str(), back.codex_home_ref), ("in_memory", None));
    assert_eq!(
        event_types(&store).await,
        [
            "1 worker.started",
            "2 worker.stopped",
            "3 worker.started",
            "4 worker.started"
        ]
    );
}

#[tokio::test]
async fn heartbeats_keep_a_worker_fresh_and_leave_its_state() {
    let store = store().await;
    let workers = workers(&store);
    workers
        .register(registration("w", &json!({"a": 1})))
        .await
        .unwrap();
    let state = async || workers.show(&workers.get("w", &OWNER).await.unwrap())["liveness"].clone();
    store.clock.advance(SignedDuration::from_millis(120_000));
    assert_eq!(state().await["heartbeat_state"], "fresh");
    store.clock.advance(SignedDuration::from_millis(1));
    assert_eq!(state().await["heartbeat_state"], "stale");
    assert_eq!(state().await["heartbeat_age_ms"], 120_001);
    let patch = members(&json!({"b": 2, "a": null}));
    let beat = workers.heartbeat("w", &OWNER, patch).await.unwrap();
    assert_eq!(beat.metadata.to_string(), r#"{"a":null,"b":2}"#);
    assert_eq!(state().await["heartbeat_state"], "fresh");
    workers
        .set_status("w", &OWNER, WorkerStatus::Failed, None)
        .await
        .unwrap();
    let beat = workers.heartbeat("w", &OWNER, Map::new()).await.unwrap();
    assert_eq!(beat.status, WorkerStatus::Failed, "accepted, but no revival");
    assert_eq!(state().await["heartbeat_state"], "failed");
    assert_eq!(
        event_types(&store).await,
        [
            "1 worker.started",
            "2 worker.heartbeat",
            "3 worker.failed",
            "4 worker.heartbeat"
        ]
    );
    store.sql_heartbeat_gone().await;
    workers
        .set_status("w", &OWNER, WorkerStatus::Running, None)
        .await
        .unwrap();
    assert_eq!(state().await["heartbeat_state"], "missing");
}

impl Store {
    async fn sql_heartbeat_gone(&self) {
        let sql = "UPDATE runtime.workers SET last_heartbeat_at = NULL";
        self.psql().await.batch_execute(sql).await.unwrap();
    }
}

#[tokio::test]
async fn refusals_name_owner_and_transition_and_write_nothing() {
    let store = store().await;
    let workers = workers(&store);
    workers.register(registration("w", &json!({}))).await.unwrap();
    let guest = WorkerOwner::GuestScope("g".to_owned());
    let foreign = Registration {
        owner: guest.clone(),
        ..registration("w", &json!({"a": 1}))
    };
    for refused in [
        workers.register(foreign).await,
        workers.get("w", &guest).await,
        workers.heartbeat("w", &guest, Map::new()).await,
        workers
            .set_status("w", &WorkerOwner::User(8), WorkerStatus::Stopped, None)
            .await,
        workers
            .checkpoint("w", Some(&guest))
            .await
            .map(|_| panic!("shown")),
    ] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, RuntimeError::Forbidden(_)));
        assert_eq!(refused.to_string(), "owner mismatch for worker w");
    }
    let unknown: [Result<Worker, _>; 2] = [
        workers.get("x", &OWNER).await,
        workers.heartbeat("x", &OWNER, Map::new()).await,
    ];
    assert!(
        unknown
            .iter()
            .all(|answer| matches!(answer, Err(RuntimeError::NotFound)))
    );
    workers
        .set_status("w", &OWNER, WorkerStatus::Stopping, None)
        .await
        .unwrap();
    let refused = workers.set_status("w", &OWNER, WorkerStatus::Running, None).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, RuntimeError::Invalid(_)));
    assert_eq!(
        refused.to_string(),
        "invalid worker transition from Stopping to Running"
    );
    assert_eq!(workers.get("w", &OWNER).await.unwrap().latest_seq, 2);
}

#[tokio::test]
async fn parallel_changes_of_one_worker_have_no_gap() {
    let store = store().await;
    let workers = workers(&store);
    let all = join_all((0..8).map(|_| workers.register(registration("w", &json!({}))))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    let beats = (0..40).map(|n| {
        let patch = members(&json!({format!("k{n}"): n}));
        workers.heartbeat("w", &OWNER, patch)
    });
    assert!(join_all(beats).await.iter().all(Result::is_ok));
    let worker = workers.get("w", &OWNER).await.unwrap();
    assert_eq!(worker.latest_seq, 48);
    assert_eq!(worker.metadata.as_object().unwrap().len(), 40, "no patch is lost");
    let types = event_types(&store).await;
    assert!(
        types
            .iter()
            .zip(1..)
            .all(|(shown, seq)| shown.starts_with(&format!("{seq} ")))
    );
    let checkpoint = workers.checkpoint("w", Some(&OWNER)).await.unwrap();
    assert_eq!(checkpoint["last_seq"], 48);
}
