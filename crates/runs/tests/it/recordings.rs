//! Receipts, replays and the hash chain, of stored runs.

use crate::support::{Store, store};
use domain::RunId;
use domain::canonical::{event_hash, payload_hash, sha256_hex};
use domain::clock::record_time;
use domain::recording::Trajectory;
use runs::history::{BUILT_IN, Histories, History};
use runs::{AppendEvent, ChainReport, EventWindow, NewRuntimeRun, runtime_runs};
use serde_json::{Value, json};

fn note(payload: Value) -> AppendEvent {
    AppendEvent {
        event_type: "note".to_owned(),
        payload,
        idempotency_key: None,
        expected_previous_seq: None,
    }
}

impl Store {
    async fn run_of_notes(&self, notes: i64) -> RunId {
        let made = self.runtime.create(NewRuntimeRun::default()).await.unwrap();
        let window = EventWindow {
            after: None,
            limit: Some(1),
        };
        for n in 0..notes {
            let event = note(json!({"z": n, "a": {"y": "é\n", "b": 1.50}}));
            self.runtime.append(made.0.id, event, window).await.unwrap();
        }
        made.0.id
    }

    async fn replayed(&self, run: RunId) -> String {
        let mut replay = self.runtime.replay(run).await.unwrap();
        let mut text = String::new();
        while let Some(lines) = replay.lines().await.unwrap() {
            text += &lines;
        }
        text
    }

    async fn verified(&self, run: RunId) -> ChainReport {
        runtime_runs::verify(&self.db, run).await.unwrap().unwrap()
    }

    /// As somebody with the server's password, past the triggers.
    async fn tamper(&self, sql: &str) {
        let script = format!("ALTER TABLE runtime.run_events DISABLE TRIGGER USER; {sql}");
        self.psql().await.batch_execute(&script).await.unwrap();
    }
}

fn broken(seq: i64, reason: &'static str) -> ChainReport {
    ChainReport::Broken { seq, reason }
}

#[tokio::test]
async fn receipt_and_replay_of_a_long_run_are_the_same_bytes_at_every_call() {
    let store = store().await;
    let run = store.run_of_notes(300).await;
    let (view, events) = store.runtime.get(run, EventWindow::default()).await.unwrap();
    let receipt = store.runtime.receipt(run).await.unwrap();
    let whole: Vec<Value> = events
        .iter()
        .map(|event| {
            json!({"seq": event.seq, "event_type": event.event_type, "payload": event.payload,
                "idempotency_key": null, "recorded_at": record_time(event.recorded_at)})
        })
        .collect();
    let hash = sha256_hex(&domain::canonical::canonical(&Value::Array(whole)));
    let created_at = record_time(view.created_at);
    let expected = format!(
        "{{\"schema\":\"openagents.receipt.v1\",\"session_id\":\"{run}\",\"trajectory_hash\":\"{hash}\",\
         \"policy_bundle_id\":\"runtime.default\",\"created_at\":\"{created_at}\",\"event_count\":301,\
         \"first_seq\":1,\"last_seq\":301,\"tool_calls\":[],\"verification\":[]}}"
    );
    assert_eq!(receipt.to_string(), expected);
    let replay = store.replayed(run).await;
    let lines: Vec<&str> = replay.lines().collect();
    assert_eq!(lines.len(), 304);
    assert!(replay.ends_with('\n') && !replay.ends_with("\n\n"));
    let last = &events[300];
    let (at, hash) = (record_time(last.recorded_at), payload_hash(&last.payload));
    let expected = format!(
        "{{\"type\":\"RuntimeEvent\",\"ts\":\"{at}\",\"session_id\":\"{run}\",\"seq\":301,\
         \"runtime_event_type\":\"note\",\"payload_hash\":\"{hash}\",\
         \"payload\":{{\"z\":299,\"a\":{{\"y\":\"é\\n\",\"b\":1.5}}}}}}"
    );
    assert_eq!(lines[302], expected, "received key order");
    let end: Value = serde_json::from_str(lines[303]).unwrap();
    assert_eq!((&end["ts"], &end["confidence"]), (&json!(at), &json!(0.5)));
    assert_eq!(store.replayed(run).await, replay);
    assert_eq!(
        store.runtime.receipt(run).await.unwrap().to_string(),
        receipt.to_string()
    );
    assert_eq!(store.verified(run).await, ChainReport::Intact { events: 301 });
}

/// Puts a published history into the tables as it was recorded.
async fn restore(store: &Store, history: &History) {
    let psql = store.psql().await;
    let head = history.events.iter().fold(None, |head: Option<String>, event| {
        let id = history.run_id.to_string();
        let (kind, payload) = (&event.event_type, &event.payload);
        Some(event_hash(&id, event.seq, kind, payload, head.as_deref()))
    });
    let status = match history.expected.final_status.as_str() {
        "succeeded" => "completed",
        "canceled" => "cancelled",
        other => other,
    };
    let last_at = history.events.last().unwrap().recorded_at;
    let sql =
        "INSERT INTO agent_runs (id, origin, status, metadata, runtime_metadata, created_at, last_event_at,
            last_seq, event_head_hash) VALUES ($1, 'runtime', $2, '{}', $3, $4, $5, $6, $7)";
    let (id, count) = (history.run_id.0, history.events.len() as i64);
    psql.execute(
        sql,
        &[
            &id,
            &status,
            &history.metadata,
            &history.created_at,
            &last_at,
            &count,
            &head,
        ],
    )
    .await
    .unwrap();
    let mut previous: Option<String> = None;
    for event in &history.events {
        let (run, kind) = (history.run_id.to_string(), &event.event_type);
        let hash = event_hash(&run, event.seq, kind, &event.payload, previous.as_deref());
        let sql = "INSERT INTO runtime.run_events VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        let (key, at) = (&event.idempotency_key, &event.recorded_at);
        psql.execute(
            sql,
            &[&id, &event.seq, kind, &event.payload, key, at, &previous, &hash],
        )
        .await
        .unwrap();
        previous = Some(hash);
    }
}

#[tokio::test]
async fn stored_runs_give_the_published_hashes() {
    let store = store().await;
    let histories: Histories = serde_json::from_str(BUILT_IN).unwrap();
    for history in &histories.fixtures {
        restore(&store, history).await;
        let run = history.run_id;
        let receipt = store.runtime.receipt(run).await.unwrap();
        assert_eq!(receipt["trajectory_hash"], history.expected.trajectory_hash);
        assert_eq!(receipt["policy_bundle_id"], history.metadata["policy_bundle_id"]);
        let replay = store.replayed(run).await;
        assert_eq!(sha256_hex(&replay), history.expected.replay_hash, "{replay}");
        let events = history.expected.runtime_event_count as u64;
        assert_eq!(store.verified(run).await, ChainReport::Intact { events });
    }
    assert_eq!(Trajectory::default().count(), 0);
    let ids = runtime_runs::run_ids(&store.db, None, 2).await.unwrap();
    let rest = runtime_runs::run_ids(&store.db, ids.last().copied(), 2)
        .await
        .unwrap();
    assert_eq!((ids.len(), rest.len()), (2, 1));
}

#[tokio::test]
async fn every_kind_of_tampering_is_found_at_its_event() {
    for (sql, found) in [
        (
            "UPDATE runtime.run_events SET payload = '{\"z\":9}' WHERE seq = 3",
            broken(3, "event hash differs"),
        ),
        (
            "UPDATE runtime.run_events SET event_type = 'other' WHERE seq = 1",
            broken(1, "event hash differs"),
        ),
        (
            "UPDATE runtime.run_events SET seq = 9 WHERE seq = 2; UPDATE runtime.run_events SET seq = 2 WHERE seq = 3;
             UPDATE runtime.run_events SET seq = 3 WHERE seq = 9",
            broken(2, "previous hash differs"),
        ),
        ("DELETE FROM runtime.run_events WHERE seq = 1", broken(1, "event missing")),
        ("DELETE FROM runtime.run_events WHERE seq = 3", broken(3, "event missing")),
        ("DELETE FROM runtime.run_events WHERE seq = 5", broken(5, "chain is cut off")),
        ("DELETE FROM runtime.run_events", broken(1, "chain is cut off")),
        (
            "UPDATE agent_runs SET last_seq = 4",
            broken(4, "head hash differs"),
        ),
        (
            "DELETE FROM runtime.run_events WHERE seq = 5; UPDATE agent_runs SET last_seq = 4",
            broken(4, "head hash differs"),
        ),
        (
            "INSERT INTO runtime.run_events SELECT run_id, 6, event_type, payload, NULL, recorded_at, event_hash, 'x'
             FROM runtime.run_events WHERE seq = 5",
            broken(6, "event beyond the head"),
        ),
    ] {
        let store = store().await;
        let run = store.run_of_notes(4).await;
        assert_eq!(store.verified(run).await, ChainReport::Intact { events: 5 });
        store.tamper(sql).await;
        assert_eq!(store.verified(run).await, found, "{sql}");
    }
}
