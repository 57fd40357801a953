use crate::support::{store, user};
use domain::canonical::canonical;
use domain::command::Command;
use domain::ids::RunId;
use domain::status::RunStatus;
use futures::future::join_all;
use runs::{AppendEvent, Appended, ChainReport, EventWindow, NewRuntimeRun, RuntimeError, runtime_runs};
use serde_json::{Value, json};

fn event(event_type: &str, payload: Value) -> AppendEvent {
    AppendEvent {
        event_type: event_type.to_owned(),
        payload,
        idempotency_key: None,
        expected_previous_seq: None,
    }
}

fn keyed(event_type: &str, payload: Value, key: &str) -> AppendEvent {
    AppendEvent {
        idempotency_key: Some(key.to_owned()),
        ..event(event_type, payload)
    }
}

impl crate::support::Store {
    async fn made(&self, metadata: Value) -> RunId {
        let new = NewRuntimeRun {
            worker_id: Some("w-7".to_owned()),
            metadata,
        };
        self.runtime.create(new).await.unwrap().0.id
    }

    async fn append(&self, run: RunId, event: AppendEvent) -> Result<Appended, RuntimeError> {
        self.runtime.append(run, event, EventWindow::default()).await
    }
}

#[tokio::test]
async fn a_run_made_here_looks_as_the_contract_shows() {
    let store = store().await;
    let metadata = json!({"z": 1, "team": "ops", "a": {"y": 1, "b": 2}});
    let new = NewRuntimeRun {
        worker_id: Some("w-7".to_owned()),
        metadata: metadata.clone(),
    };
    let (run, events, committed) = store.runtime.create(new).await.unwrap();
    let shown = run.to_json(&events);
    assert_eq!(shown["status"], "running");
    assert_eq!(
        shown["metadata"].to_string(),
        metadata.to_string(),
        "key order is kept"
    );
    assert_eq!(shown["events"][0]["payload"], json!({"source": "runtime"}));
    assert_eq!(shown["events"][0]["idempotency_key"], Value::Null);
    assert_eq!(shown["updated_at"], shown["events"][0]["recorded_at"]);
    assert_eq!(committed.events[0].metadata["event_type"], "run.started");
    assert_eq!(committed.run.status, RunStatus::Executing);
    let (bare, ..) = store.runtime.create(NewRuntimeRun::default()).await.unwrap();
    assert_eq!((bare.worker_id, bare.metadata), (None, Value::Null));
}

#[tokio::test]
async fn an_end_is_accepted_once_and_shows_on_both_surfaces() {
    let store = store().await;
    let run = store.made(json!({"owner_user_id": 7})).await;
    let finishes = [
        event("run.finished", json!({"status": "succeeded"})),
        event("run.finished", json!({"status": "failed", "error_code": "x"})),
    ];
    let answers = join_all(finishes.map(|finish| store.append(run, finish))).await;
    let conflicts: Vec<String> = answers
        .iter()
        .filter_map(|a| a.as_ref().err().map(ToString::to_string))
        .collect();
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    assert!(
        conflicts[0].starts_with("invalid run transition: "),
        "{conflicts:?}"
    );
    let (view, events) = store.runtime.get(run, EventWindow::default()).await.unwrap();
    assert_eq!(events.len(), 2);
    let public = store.events(run).await;
    assert_eq!(public[1].log_type, domain::LogType::Complete);
    let summary = store.runtime.summary(run).await.unwrap();
    assert_eq!(summary["status"].as_str(), Some(view.status.as_str()));
    let head = store.reader.authorize(&"7".into(), run).await.unwrap().unwrap();
    assert!(head.status.is_final());
    let late = store.append(run, event("note", Value::Null)).await.unwrap_err();
    assert_eq!(late.to_string(), format!("run is terminal: {}", view.status));
}

#[tokio::test]
async fn a_known_key_is_answered_without_writing_whatever_else_is_wrong() {
    let store = store().await;
    let run = store.made(Value::Null).await;
    let note = || keyed(" note ", json!({"b": 1, "a": 2}), " k ");
    let parallel = join_all((0..16).map(|_| store.append(run, note()))).await;
    let replayed = parallel
        .iter()
        .filter(|answer| answer.as_ref().unwrap().replayed)
        .count();
    assert_eq!(replayed, 15);
    store
        .append(run, event("run.finished", json!({"status": "cancelled"})))
        .await
        .unwrap();
    let same = AppendEvent {
        expected_previous_seq: Some(99),
        ..keyed("note", json!({"a": 2, "b": 1}), "k")
    };
    let again = store.append(run, same).await.unwrap();
    assert!(again.replayed && again.committed.is_none());
    assert_eq!((again.events.len(), again.run.status.as_str()), (3, "canceled"));
    assert_eq!(
        again.events[2].payload,
        json!({"status": "cancelled"}),
        "the payload stays as sent"
    );
    let other = store
        .append(run, keyed("note", json!({"a": 3}), "k"))
        .await
        .unwrap_err();
    assert_eq!(
        other.to_string(),
        "idempotency_key already used for a different event"
    );
    let no_op = keyed("run.finished", json!({"status": "canceled"}), "end");
    let answer = store.append(run, no_op).await.unwrap();
    assert!(!answer.replayed && answer.committed.is_none());
    assert_eq!(
        answer.events.len(),
        3,
        "a no-op writes nothing and remembers no key"
    );
}

#[tokio::test]
async fn checks_come_in_their_order_with_their_texts() {
    let store = store().await;
    let run = store.made(Value::Null).await;
    let unknown = store
        .append(RunId(uuid::Uuid::max()), event(" ", Value::Null))
        .await
        .unwrap_err();
    assert_eq!(unknown.to_string(), "event_type cannot be empty");
    let unknown = store
        .append(RunId(uuid::Uuid::max()), event("x", Value::Null))
        .await;
    assert!(matches!(unknown, Err(RuntimeError::NotFound)));
    let long = store
        .append(run, event(&"x".repeat(201), Value::Null))
        .await
        .unwrap_err();
    assert_eq!(long.to_string(), "event_type is not valid");
    let key = store
        .append(run, keyed("x", Value::Null, &"k".repeat(513)))
        .await
        .unwrap_err();
    assert_eq!(key.to_string(), "idempotency_key is too long");
    let wrong = AppendEvent {
        expected_previous_seq: Some(0),
        ..event("x", Value::Null)
    };
    let wrong = store.append(run, wrong).await.unwrap_err();
    assert!(matches!(wrong, RuntimeError::Conflict(_)));
    assert_eq!(
        wrong.to_string(),
        "expected_previous_seq 0 does not match actual previous seq 1"
    );
    let right = AppendEvent {
        expected_previous_seq: Some(1),
        ..event("x", Value::Null)
    };
    store.append(run, right).await.unwrap();
    let before = store.runtime.get(run, EventWindow::default()).await.unwrap();
    let no_status = store
        .append(run, event("run.finished", Value::Null))
        .await
        .unwrap_err();
    assert_eq!(no_status.to_string(), "run.finished requires payload.status");
    assert_eq!(
        store.runtime.get(run, EventWindow::default()).await.unwrap(),
        before,
        "refusals write nothing"
    );
    let cut = EventWindow {
        after: Some(1),
        limit: Some(1),
    };
    assert_eq!(store.runtime.get(run, cut).await.unwrap().1[0].seq, 2);
}

#[tokio::test]
async fn a_storm_of_appends_has_no_gap_no_drift_and_a_whole_chain() {
    let store = store().await;
    let run = store.made(Value::Null).await;
    let writer = |n: i32| {
        let store = &store;
        async move {
            for i in 0..20 {
                store
                    .runtime
                    .append(
                        run,
                        event("tick", json!({"n": n, "i": i})),
                        EventWindow {
                            after: None,
                            limit: Some(1),
                        },
                    )
                    .await
                    .unwrap();
            }
        }
    };
    join_all((0..16).map(writer)).await;
    let (_, events) = store.runtime.get(run, EventWindow::default()).await.unwrap();
    assert!((1..=321).eq(events.iter().map(|event| event.seq)));
    assert!(
        events
            .windows(2)
            .all(|pair| pair[0].recorded_at <= pair[1].recorded_at)
    );
    let summary = store.runtime.summary(run).await.unwrap();
    assert_eq!(
        (&summary["last_seq"], &summary["event_count"]),
        (&json!(321), &json!(321))
    );
    assert_eq!(
        store.runtime.checkpoint(run).await.unwrap()["last_event_type"],
        "tick"
    );
    let drift = store.runtime.drift(&format!("run:{run}:events")).await.unwrap();
    assert_eq!(drift, None);
    let chain = runtime_runs::verify(&store.db, run).await.unwrap();
    assert_eq!(chain, Some(ChainReport::Intact { events: 321 }));
}

#[tokio::test]
async fn a_tampered_event_is_found() {
    let store = store().await;
    let run = store.made(Value::Null).await;
    store.append(run, event("a", json!(1))).await.unwrap();
    let psql = store.psql().await;
    psql.batch_execute("ALTER TABLE runtime.run_events DISABLE TRIGGER ALL")
        .await
        .unwrap();
    psql.batch_execute("UPDATE runtime.run_events SET payload = '2' WHERE seq = 2")
        .await
        .unwrap();
    let broken = runtime_runs::verify(&store.db, run).await.unwrap();
    assert_eq!(
        broken,
        Some(ChainReport::Broken {
            seq: 2,
            reason: "event hash differs"
        })
    );
    psql.batch_execute("DELETE FROM runtime.run_events WHERE seq = 2")
        .await
        .unwrap();
    let cut = runtime_runs::verify(&store.db, run).await.unwrap();
    assert_eq!(
        cut,
        Some(ChainReport::Broken {
            seq: 2,
            reason: "chain is cut off"
        })
    );
}

#[tokio::test]
async fn removed_projections_come_back_with_drift_recorded() {
    let store = store().await;
    let run = store.made(Value::Null).await;
    let psql = store.psql().await;
    psql.batch_execute("DELETE FROM runtime.projection_checkpoints; DELETE FROM runtime.run_summaries")
        .await
        .unwrap();
    assert!(matches!(
        store.runtime.checkpoint(run).await,
        Err(RuntimeError::NotFound)
    ));
    store.append(run, event("a", json!(1))).await.unwrap();
    let drift = store
        .runtime
        .drift(&format!("run:{run}:events"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (&drift["expected_next_seq"], &drift["incoming_seq"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(drift["reason"], "sequence_gap");
    let blank = store.runtime.drift(" ").await.unwrap_err();
    assert_eq!(blank.to_string(), "topic is required for drift lookup");
}

#[tokio::test]
async fn a_platform_run_is_driven_by_the_platform_and_can_be_cancelled_from_here() {
    let store = store().await;
    let (job, _) = store.executing().await;
    for payload in [
        event("run.started", Value::Null),
        event("run.finished", json!({"status": "failed"})),
    ] {
        let refused = store.append(job.run_id, payload).await.unwrap_err();
        assert_eq!(refused.to_string(), "run is driven by the platform");
    }
    store
        .append(job.run_id, event("note", json!({"x": 1})))
        .await
        .unwrap();
    let cancel = keyed("run.cancel_requested", json!({"reason": "operator_request"}), "c");
    let done = store.append(job.run_id, cancel).await.unwrap();
    assert_eq!(done.run.status, "canceled");
    assert_eq!(done.committed.unwrap().remove_job, Some(job.job_id));
    let kinds: Vec<&str> = done
        .events
        .iter()
        .map(|event| event.event_type.as_str())
        .collect();
    assert_eq!(
        kinds,
        [
            "run.created",
            "run.log",
            "run.started",
            "run.status_changed",
            "run.log",
            "run.status_changed",
            "note",
            "run.cancel_requested",
            "run.status_changed",
            "run.finished"
        ]
    );
    assert_eq!(
        done.events.last().unwrap().payload,
        json!({"status": "canceled", "reason_class": "cancel_requested"})
    );
    assert_eq!(
        runtime_runs::verify(&store.db, job.run_id).await.unwrap(),
        Some(ChainReport::Intact { events: 10 })
    );
    let late = store
        .append(job.run_id, event("run.cancel_requested", Value::Null))
        .await
        .unwrap_err();
    assert_eq!(
        late.to_string(),
        "invalid run transition: Canceled -> RequestCancel"
    );
}

#[tokio::test]
async fn stopping_a_run_driven_from_outside_asks_its_driver() {
    let store = store().await;
    let run = store.made(json!({"owner_user_id": "u-1"})).await;
    let stopped = store
        .orchestration
        .command(&user(), run, Command::Stop, "")
        .await
        .unwrap();
    assert_eq!(stopped.run.status, RunStatus::Executing);
    assert_eq!(
        store
            .runtime
            .get(run, EventWindow::default())
            .await
            .unwrap()
            .0
            .status,
        "canceling"
    );
    let pause = store
        .orchestration
        .command(&user(), run, Command::Pause, "")
        .await
        .unwrap_err();
    assert_eq!(pause.to_string(), "cannot pause run in status: executing");
    let refused = store
        .append(run, event("run.finished", json!({"status": "succeeded"})))
        .await;
    assert!(matches!(refused, Err(RuntimeError::Invalid(_))));
    store
        .append(run, event("run.finished", json!({"status": "canceled"})))
        .await
        .unwrap();
    let again = store
        .orchestration
        .command(&user(), run, Command::Stop, "")
        .await
        .unwrap_err();
    assert_eq!(again.to_string(), "cannot cancel run in status: cancelled");
}

#[tokio::test]
async fn golden_chain_heads_come_out_of_the_stored_hashes() {
    let store = store().await;
    let run = store.made(Value::Null).await;
    store
        .append(
            run,
            keyed("run.finished", json!({"status": "succeeded"}), "finish:happy"),
        )
        .await
        .unwrap();
    let (view, events) = store.runtime.get(run, EventWindow::default()).await.unwrap();
    let golden: RunId = "01951d2a-6c15-7c9f-99c2-cf8ad72a23f0".parse().unwrap();
    let mut head: Option<String> = None;
    let mut own: Option<String> = None;
    for event in &events {
        let link = |id: RunId, previous: Option<&str>| {
            domain::canonical::event_hash(
                &id.to_string(),
                event.seq,
                &event.event_type,
                &event.payload,
                previous,
            )
        };
        head = Some(link(golden, head.as_deref()));
        own = Some(link(run, own.as_deref()));
    }
    assert_eq!(
        head.as_deref(),
        Some("sha256:a780f70132394e4e60a9678c51183df4acc40d403295550dafa32b73bbf98708")
    );
    assert_eq!(own, view.head_hash, "{}", canonical(&json!(events.len())));
}
