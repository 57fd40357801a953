//! The state table against the store: every pair, its text, and what is written.

use crate::support::{Store, store};
use domain::RunId;
use futures::future::join;
use runs::{AppendEvent, Appended, ChainReport, EventWindow, NewRuntimeRun, RuntimeError, runtime_runs};
use serde_json::{Value, json};

fn event(event_type: &str, status: Option<&str>) -> AppendEvent {
    AppendEvent {
        event_type: event_type.to_owned(),
        payload: status.map_or(Value::Null, |status| json!({"status": status})),
        idempotency_key: None,
        expected_previous_seq: None,
    }
}

async fn append(store: &Store, run: RunId, event: AppendEvent) -> Result<Appended, RuntimeError> {
    store.runtime.append(run, event, EventWindow::default()).await
}

impl Store {
    /// A run in this state, by the shortest way; no run made here stays `created`, so that one is put there by hand.
    async fn run_in(&self, state: &str) -> RunId {
        let run = self.runtime.create(NewRuntimeRun::default()).await.unwrap().0.id;
        match state {
            "created" => {
                let sql = "UPDATE agent_runs SET status = 'created' WHERE id = $1";
                self.psql().await.execute(sql, &[&run.0]).await.unwrap();
            }
            "running" => {}
            "canceling" => {
                append(self, run, event("run.cancel_requested", None))
                    .await
                    .unwrap();
            }
            ended => {
                append(self, run, event("run.finished", Some(ended)))
                    .await
                    .unwrap();
            }
        }
        run
    }
}

/// Name of the transition and its event.
const COLUMNS: [(&str, &str, Option<&str>); 7] = [
    ("Start", "run.started", None),
    ("RequestCancel", "run.cancel_requested", None),
    ("FinishSucceeded", "run.finished", Some("succeeded")),
    ("FinishFailed", "run.finished", Some("failed")),
    ("FinishCanceled", "run.finished", Some("canceled")),
    ("FinishCanceled", "run.finished", Some("cancelled")),
    ("other", "note", None),
];

/// A state word: appended, that is the state then; `0`: no-op; 400 or 409: refused.
const TABLE: [(&str, [&str; 7]); 6] = [
    (
        "created",
        [
            "running",
            "canceling",
            "succeeded",
            "failed",
            "canceled",
            "canceled",
            "created",
        ],
    ),
    (
        "running",
        [
            "running",
            "canceling",
            "succeeded",
            "failed",
            "canceled",
            "canceled",
            "running",
        ],
    ),
    (
        "canceling",
        [
            "400",
            "canceling",
            "400",
            "failed",
            "canceled",
            "canceled",
            "canceling",
        ],
    ),
    ("succeeded", ["409", "409", "0", "409", "409", "409", "409"]),
    ("failed", ["409", "409", "409", "0", "409", "409", "409"]),
    ("canceled", ["409", "409", "409", "409", "0", "0", "409"]),
];

#[tokio::test]
async fn every_state_answers_every_event_as_the_table_says() {
    let store = store().await;
    for (from, cells) in TABLE {
        for ((transition, event_type, status), cell) in COLUMNS.into_iter().zip(cells) {
            let run = store.run_in(from).await;
            let (before, events) = store.runtime.get(run, EventWindow::default()).await.unwrap();
            let answer = append(&store, run, event(event_type, status)).await;
            let case = format!("{from} {event_type} {status:?}");
            let (after, now) = store.runtime.get(run, EventWindow::default()).await.unwrap();
            let state = format!("{}{}", from[..1].to_uppercase(), &from[1..]);
            let text = match transition {
                "other" => format!("run is terminal: {from}"),
                _ => format!("invalid run transition: {state} -> {transition}"),
            };
            match (cell, answer) {
                ("400", Err(RuntimeError::Invalid(said))) | ("409", Err(RuntimeError::Conflict(said))) => {
                    assert_eq!(said, text, "{case}");
                    assert_eq!((&after, &now), (&before, &events), "{case}");
                }
                ("0", Ok(same)) => {
                    assert!(!same.replayed && same.committed.is_none(), "{case}");
                    assert_eq!((&after, &now), (&before, &events), "{case}");
                }
                (to, Ok(appended)) => {
                    assert_eq!(
                        (after.status.as_str(), appended.run.status.as_str()),
                        (to, to),
                        "{case}"
                    );
                    assert_eq!(now.len(), events.len() + 1, "{case}");
                    assert_eq!(store.runtime.summary(run).await.unwrap()["status"], to, "{case}");
                }
                (_, answer) => panic!("{case}: {answer:?}"),
            }
        }
    }
}

#[tokio::test]
async fn of_two_parallel_different_finishes_exactly_one_is_accepted_a_hundred_times() {
    let store = store().await;
    let mut winners = [0, 0];
    for n in 0..100 {
        let run = store.runtime.create(NewRuntimeRun::default()).await.unwrap().0.id;
        let ends = if n % 2 == 0 {
            ["succeeded", "failed"]
        } else {
            ["failed", "canceled"]
        };
        let [one, two] = ends.map(|end| append(&store, run, event("run.finished", Some(end))));
        let (one, two) = join(one, two).await;
        assert_eq!(
            u8::from(one.is_ok()) + u8::from(two.is_ok()),
            1,
            "{one:?} {two:?}"
        );
        winners[usize::from(two.is_ok())] += 1;
        let (view, events) = store.runtime.get(run, EventWindow::default()).await.unwrap();
        assert_eq!(view.status, ends[usize::from(two.is_ok())]);
        let finished = events.iter().filter(|event| event.event_type == "run.finished");
        assert_eq!((finished.count(), events.len()), (1, 2));
        let chain = runtime_runs::verify(&store.db, run).await.unwrap();
        assert_eq!(chain, Some(ChainReport::Intact { events: 2 }));
    }
    assert_eq!(winners[0] + winners[1], 100);
}
