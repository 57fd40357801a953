//! Comparing and rebuilding projections.

use crate::support::{Store, store};
use domain::RunId;
use futures::future::join;
use runs::reprojection::{Action, Outcome, Plan, Selection, reproject, select};
use runs::{AppendEvent, EventWindow, NewRuntimeRun};
use serde_json::{Value, json};

const REBUILD: Plan = Plan {
    dry_run: false,
    reconcile: false,
    repair: true,
};
const RECONCILE: Plan = Plan {
    reconcile: true,
    ..REBUILD
};

impl Store {
    async fn noted(&self, notes: usize) -> RunId {
        let new = NewRuntimeRun {
            worker_id: None,
            metadata: json!({"thread_id": "t-1"}),
        };
        let run = self.runtime.create(new).await.unwrap().0.id;
        for _ in 0..notes {
            self.note(run).await;
        }
        run
    }

    async fn note(&self, run: RunId) {
        let event = AppendEvent {
            event_type: "note".to_owned(),
            payload: Value::Null,
            idempotency_key: None,
            expected_previous_seq: None,
        };
        let window = EventWindow {
            after: None,
            limit: Some(1),
        };
        self.runtime.append(run, event, window).await.unwrap();
    }

    async fn projections(&self, run: RunId) -> Vec<Value> {
        let drift = self.runtime.drift(&format!("run:{run}:events")).await.unwrap();
        vec![
            self.runtime.checkpoint(run).await.unwrap(),
            self.runtime.summary(run).await.unwrap(),
            json!(drift),
        ]
    }

    async fn treated(&self, run: RunId, plan: Plan) -> Outcome {
        reproject(&self.db, run, plan).await.unwrap()
    }

    async fn sql(&self, sql: &str) {
        self.psql().await.batch_execute(sql).await.unwrap();
    }
}

fn outcome(action: Action, drift: bool, reasons: &[&str], watermark: i64, latest: i64) -> Outcome {
    Outcome {
        action,
        drift,
        reasons: reasons.iter().map(|&reason| reason.to_owned()).collect(),
        watermark,
        latest,
    }
}

#[tokio::test]
async fn deleted_and_wrong_projections_are_named_and_come_back_as_they_were() {
    let all = [
        "event_count_mismatch",
        "watermark_behind",
        "summary_hash_mismatch",
    ];
    for (sql, reasons, watermark) in [
        (
            "DELETE FROM runtime.projection_checkpoints; DELETE FROM runtime.run_summaries",
            &all[..],
            0,
        ),
        ("DELETE FROM runtime.projection_checkpoints", &all[1..2], 0),
        (
            "UPDATE runtime.projection_checkpoints SET last_seq = 2",
            &all[1..2],
            2,
        ),
        (
            "UPDATE runtime.run_summaries SET event_count = 7",
            &[all[0], all[2]],
            4,
        ),
        ("UPDATE runtime.run_summaries SET status = 'failed'", &all[2..], 4),
        (
            "INSERT INTO runtime.projection_drift SELECT topic, 3, 2, 5, 'sequence_gap', now()
             FROM runtime.projection_checkpoints",
            &["sequence_gap"],
            4,
        ),
    ] {
        damaged_and_repaired(sql, reasons, watermark).await;
    }
}

async fn damaged_and_repaired(sql: &str, reasons: &[&str], watermark: i64) {
    let store = store().await;
    let run = store.noted(3).await;
    let before = store.projections(run).await;
    assert_eq!(
        store.treated(run, RECONCILE).await,
        outcome(Action::InSync, false, &[], 4, 4)
    );
    store.sql(sql).await;
    let (looked, left) = (
        Plan {
            dry_run: true,
            ..RECONCILE
        },
        Plan {
            repair: false,
            ..RECONCILE
        },
    );
    assert_eq!(
        store.treated(run, looked).await,
        outcome(Action::DryRunDetectedDrift, true, reasons, watermark, 4),
        "{sql}"
    );
    assert_eq!(
        store.treated(run, left).await,
        outcome(Action::DriftDetectedNoRepair, true, reasons, watermark, 4)
    );
    assert_eq!(
        store.treated(run, RECONCILE).await,
        outcome(Action::Repaired, false, reasons, 4, 4)
    );
    assert_eq!(store.projections(run).await, before, "{sql}");
    store.treated(run, REBUILD).await;
    assert_eq!(store.projections(run).await, before, "twice gives the same");
}

#[tokio::test]
async fn drift_of_lost_projections_disappears_with_the_repair() {
    let store = store().await;
    let run = store.noted(1).await;
    store
        .sql("DELETE FROM runtime.projection_checkpoints; DELETE FROM runtime.run_summaries")
        .await;
    store.note(run).await;
    assert_ne!(store.projections(run).await[2], Value::Null);
    let dry = Plan {
        dry_run: true,
        ..REBUILD
    };
    let seen = store.treated(run, dry).await;
    assert_eq!((seen.action, seen.drift), (Action::DryRunReproject, true));
    assert_ne!(
        store.projections(run).await[2],
        Value::Null,
        "a dry run changes nothing"
    );
    assert_eq!(store.treated(run, REBUILD).await.action, Action::Reprojected);
    let after = store.projections(run).await;
    assert_eq!((&after[1]["event_count"], &after[2]), (&json!(3), &Value::Null));
}

#[tokio::test]
async fn rebuilding_while_others_write_leaves_no_drift() {
    let store = store().await;
    let run = store.noted(0).await;
    let write = async {
        for _ in 0..60 {
            store.note(run).await;
        }
    };
    let rebuild = async {
        for _ in 0..30 {
            store.treated(run, REBUILD).await;
        }
    };
    join(write, rebuild).await;
    assert_eq!(
        store.treated(run, RECONCILE).await,
        outcome(Action::InSync, false, &[], 61, 61)
    );
    assert_eq!(store.projections(run).await[2], Value::Null);
}

#[tokio::test]
async fn a_hole_in_the_events_is_recorded_and_not_repaired_for_ever() {
    let store = store().await;
    let run = store.noted(3).await;
    store
        .sql("ALTER TABLE runtime.run_events DISABLE TRIGGER USER; DELETE FROM runtime.run_events WHERE seq = 2")
        .await;
    assert_eq!(store.treated(run, RECONCILE).await.action, Action::Repaired);
    let drift = &store.projections(run).await[2];
    assert_eq!(
        (
            &drift["expected_next_seq"],
            &drift["last_seen_seq"],
            &drift["incoming_seq"]
        ),
        (&json!(2), &json!(1), &json!(3))
    );
    assert_eq!(store.treated(run, RECONCILE).await.action, Action::InSync);
}

#[tokio::test]
async fn runs_are_selected_by_id_thread_and_time_of_the_last_event() {
    let store = store().await;
    let first = store.noted(0).await;
    store.clock.advance(jiff::SignedDuration::from_secs(60));
    let second = store.noted(0).await;
    let other = store.runtime.create(NewRuntimeRun::default()).await.unwrap().0;
    let all = Selection {
        limit: 500,
        ..Selection::default()
    };
    let chosen = async |selection: Selection| select(&store.db, &selection).await.unwrap();
    assert_eq!(chosen(all.clone()).await.len(), 3);
    assert_eq!(
        chosen(Selection {
            limit: 1,
            ..all.clone()
        })
        .await,
        [first]
    );
    let thread = Selection {
        thread_id: Some("t-1".to_owned()),
        ..all.clone()
    };
    assert_eq!(chosen(thread.clone()).await, [first, second]);
    let (since, until) = (
        Some(other.updated_at),
        Some(other.created_at - jiff::SignedDuration::from_secs(1)),
    );
    assert_eq!(
        chosen(Selection {
            since,
            ..thread.clone()
        })
        .await,
        [second]
    );
    assert_eq!(chosen(Selection { until, ..thread }).await, [first]);
    let one = Selection {
        run_id: Some(other.id),
        ..all
    };
    assert_eq!(chosen(one).await, [other.id]);
}
