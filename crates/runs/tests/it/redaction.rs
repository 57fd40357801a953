//! What leaves an event before it is stored, and how it is compared.

use crate::support::{Store, new_run, store, user};
use domain::Redactor;
use domain::canonical::payload_hash;
use domain::command::Command;
use domain::ids::RunId;
use runs::{AppendEvent, EventWindow, NewRuntimeRun};
use serde_json::{Value, json};
use std::sync::Arc;

const SECRET: &str = "s3cret-of-this-process";

async fn knowing() -> Store {
    let mut store = store().await;
    let redactor = Arc::new(Redactor::new([SECRET], []));
    store.orchestration = store.orchestration.clone().with_redactor(redactor.clone());
    store.runtime = store.runtime.clone().with_redactor(redactor);
    store
}

fn note(payload: Value) -> AppendEvent {
    AppendEvent {
        event_type: "note".to_owned(),
        payload,
        idempotency_key: Some("k".to_owned()),
        expected_previous_seq: None,
    }
}

async fn made(store: &Store, metadata: Value) -> (RunId, Value) {
    let new = NewRuntimeRun {
        worker_id: None,
        metadata,
    };
    let (run, ..) = store.runtime.create(new).await.unwrap();
    (run.id, run.metadata)
}

#[tokio::test]
async fn payloads_are_stored_hashed_and_compared_without_what_must_not_be_kept() {
    let store = knowing().await;
    let (run, _) = made(&store, json!({})).await;
    let sent = |token: &str| json!({"z": "mail a@b.ch", "accessToken": token, "n": null, "a": [SECRET]});
    let stored =
        json!({"z": "mail [REDACTED_EMAIL]", "accessToken": "[REDACTED]", "n": null, "a": ["[REDACTED]"]});
    let first = store
        .runtime
        .append(run, note(sent("one")), EventWindow::default())
        .await
        .unwrap();
    let event = &first.events[1];
    assert_eq!(event.payload.to_string(), stored.to_string(), "key order is kept");
    let again = store
        .runtime
        .append(run, note(sent("two")), EventWindow::default())
        .await
        .unwrap();
    assert!(again.replayed, "both are the same event once redacted");
    let other = store
        .runtime
        .append(run, note(json!({"z": 1})), EventWindow::default())
        .await;
    assert!(other.is_err());
    let hash: String = domain::canonical::event_hash(
        &run.to_string(),
        2,
        "note",
        &stored,
        Some(&domain::canonical::event_hash(
            &run.to_string(),
            1,
            "run.started",
            &json!({"source": "runtime"}),
            None,
        )),
    );
    assert_eq!(
        store
            .text("SELECT event_hash FROM runtime.run_events WHERE seq = 2")
            .await,
        hash
    );
    assert_ne!(payload_hash(&sent("one")), payload_hash(&stored));
    let log = store
        .text("SELECT metadata::text FROM agent_task_logs WHERE seq = 2")
        .await;
    assert!(!log.contains(SECRET) && !log.contains("a@b.ch"), "{log}");
}

#[tokio::test]
async fn metadata_is_redacted_but_still_says_who_owns_the_run() {
    let store = knowing().await;
    let metadata = json!({"owner_user_id": "jane@example.org", "password": "x", "thread_id": "t-1"});
    let (_, shown) = made(&store, metadata).await;
    assert_eq!(
        shown,
        json!({"owner_user_id": "[REDACTED_EMAIL]", "password": "[REDACTED]", "thread_id": "t-1"})
    );
    assert_eq!(
        store.text("SELECT user_id FROM agent_runs").await,
        "jane@example.org"
    );
}

#[tokio::test]
async fn prompts_and_answers_are_redacted_in_events_and_whole_in_their_own_tables() {
    let store = knowing().await;
    let mut new = new_run(false);
    new.prompt = format!("Use {SECRET} and call 555-123-4567");
    let run = store.orchestration.create(new, None).await.unwrap();
    let runs::Created::New(committed) = run else {
        panic!("no key was given");
    };
    let run = committed.run.id;
    let said = store
        .text("SELECT message || metadata::text FROM agent_task_logs WHERE seq = 2")
        .await;
    assert!(
        said.starts_with("Use [REDACTED] and call [REDACTED_PHONE]"),
        "{said}"
    );
    assert!(!said.contains(SECRET) && !said.contains("555-123"), "{said}");
    let kept = store.text("SELECT content FROM agent_messages").await;
    assert_eq!(kept, format!("Use {SECRET} and call 555-123-4567"));
    let stopped = store.orchestration.command(&user(), run, Command::Stop, "").await;
    assert!(stopped.is_ok());
}
