use crate::support::{assert_in_order, new_run, outline, store, user};
use domain::command::Command;
use domain::status::RunStatus;
use futures::future::join_all;
use runs::{CommandError, Created, IdempotencyKey};
use serde_json::{Value, json};

fn key(body: &str) -> IdempotencyKey {
    IdempotencyKey {
        key: "k".to_owned(),
        request_hash: body.to_owned(),
    }
}

#[tokio::test]
async fn a_created_run_has_its_prompt_connectors_project_and_two_events() {
    let store = store().await;
    let committed = store.created(false).await;
    let run = committed.run.id;
    assert_eq!(committed.run.status, RunStatus::Created);
    assert!(committed.enqueue.is_none());
    let events = store.events(run).await;
    assert_eq!(events, committed.events, "what is published is what is stored");
    assert_eq!(outline(&events), ["info", "info"]);
    assert_eq!(events[1].metadata["role"], "user");
    assert_in_order(&events);
    let row = store
        .psql()
        .await
        .query_one(
            "SELECT m.role, m.content, r.metadata->>'project_id', r.prompt,
                (SELECT array_agg(connector_id ORDER BY position) FROM agent_run_connectors)
             FROM agent_messages m JOIN agent_runs r ON r.id = m.run_id",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "user");
    assert_eq!(row.get::<_, &str>(1), "List files");
    assert_eq!(row.get::<_, &str>(2), "p-1");
    assert_eq!(row.get::<_, Vec<String>>(4), ["github", "slack"]);
}

#[tokio::test]
async fn auto_start_queues_in_the_same_transaction_with_an_outbox_row() {
    let store = store().await;
    let committed = store.created(true).await;
    let job = committed.enqueue.unwrap();
    assert_eq!(
        (job.attempt, job.retry_count, job.run_id),
        (1, 0, committed.run.id)
    );
    assert_eq!(
        outline(&store.events(job.run_id).await),
        ["info", "info", "->queued"]
    );
    let due = runs::Outbox::new(store.db.clone())
        .due(std::time::Duration::ZERO, 10)
        .await
        .unwrap();
    assert_eq!(due, std::slice::from_ref(&job));
    let stored: Value = store
        .psql()
        .await
        .query_one("SELECT job FROM agent_outbox", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(stored, json!(job));
}

#[tokio::test]
async fn of_fifty_creates_with_one_key_one_makes_a_run_and_all_get_its_answer() {
    let store = store().await;
    let answers = join_all((0..50).map(|_| store.orchestration.create(new_run(true), Some(key("h"))))).await;
    let mut made = vec![];
    let mut replayed = vec![];
    for answer in answers {
        match answer.unwrap() {
            Created::New(committed) => made.push(committed),
            Created::Replayed { answer } => replayed.push(answer),
        }
    }
    assert_eq!((made.len(), replayed.len()), (1, 49));
    let expected = json!({"run_id": made[0].run.id, "status": "queued",
        "message": "Agent run created and queued for processing", "plan": null});
    assert!(replayed.iter().all(|answer| *answer == expected), "{replayed:?}");
    assert_eq!(store.count("SELECT count(*) FROM agent_runs").await, 1);
}

#[tokio::test]
async fn the_same_key_with_another_body_is_a_conflict_until_24_hours_have_passed() {
    let store = store().await;
    store
        .orchestration
        .create(new_run(false), Some(key("a")))
        .await
        .unwrap();
    let other = store.orchestration.create(new_run(false), Some(key("b"))).await;
    assert!(
        matches!(other, Err(CommandError::IdempotencyConflict)),
        "{other:?}"
    );
    store.clock.advance(jiff::SignedDuration::from_hours(24));
    let later = store
        .orchestration
        .create(new_run(false), Some(key("b")))
        .await
        .unwrap();
    assert!(matches!(later, Created::New(_)));
}

#[tokio::test]
async fn only_a_failed_run_is_retried_and_the_new_one_repeats_what_was_asked() {
    let store = store().await;
    let (job, epoch) = store.executing().await;
    let early = store
        .orchestration
        .retry(&user(), job.run_id, None, ("", 3))
        .await;
    assert!(
        matches!(&early, Err(CommandError::Rejected(rejection))
            if rejection.to_string() == "cannot retry run in status: executing"),
        "{early:?}"
    );
    let error = domain::change::RunError::new("permanent_error", "Planning failed: x");
    let failed = domain::Change::Status {
        to: RunStatus::Failed,
        error: Some(error),
    };
    store.progress(job.run_id, epoch, vec![failed]).await.unwrap();
    let foreign = store
        .orchestration
        .retry(&"u-2".into(), job.run_id, None, ("", 3))
        .await;
    assert!(matches!(foreign, Err(CommandError::NotFound)));
    let Created::New(again) = store
        .orchestration
        .retry(&user(), job.run_id, None, ("", 3))
        .await
        .unwrap()
    else {
        panic!("no key was given")
    };
    assert_eq!(again.run.status, RunStatus::Queued);
    let view = store.reader.run(again.run.id).await.unwrap().unwrap();
    assert_eq!(view["retry_of"], json!(job.run_id));
    assert_eq!(view["prompt"], "List files");
    assert_eq!(view["metadata"], json!({"project_id": "p-1"}));
    let sql = "SELECT count(*) FROM agent_run_connectors";
    assert_eq!(store.count(sql).await, 4);
    let started = store
        .command(
            again.run.id,
            Command::Start {
                job_id: crate::support::job_id(),
            },
        )
        .await;
    assert!(
        matches!(started, Err(CommandError::Rejected(_))),
        "it is queued already"
    );
}

#[tokio::test]
async fn the_servers_a_run_names_reach_its_worker_and_none_is_not_the_same_as_silence() {
    let store = store().await;
    for servers in [
        Some(vec!["time".to_owned(), "issues".to_owned()]),
        Some(vec![]),
        None,
    ] {
        let orchestration = store.orchestration.with_mcp_servers(servers.clone());
        let Created::New(made) = orchestration.create(new_run(true), None).await.unwrap() else {
            panic!("no key was given")
        };
        let claimed = store.claim(&made.enqueue.unwrap(), "w").await.unwrap();
        assert_eq!(claimed.snapshot.mcp_servers, servers);
    }
}
