//! Checkpoints, summaries and drift, written in the transaction of the events they are made from.
//!
//! Apply rule: an event at or below the checkpoint is ignored; one beyond the next is applied and recorded as
//! drift. Because the run row's lock is held, no drift ever appears in normal work.

use crate::authority::row::column;
use crate::db::tx::{Param, Statement, params};
use crate::store::StoreError;
use domain::canonical::sha256_hex;
use domain::ids::RunId;
use jiff::Timestamp;
use serde_json::json;
use tokio_postgres::Row;

const WRITE_DRIFT: &str = "INSERT INTO runtime.projection_drift
        (topic, expected_next_seq, last_seen_seq, incoming_seq, reason, detected_at)
    VALUES ($1, $2, $3, $4, 'sequence_gap', $5) ON CONFLICT (topic) DO NOTHING";

/// Topic of a run's events.
pub(crate) fn topic(run_id: RunId) -> String {
    format!("run:{run_id}:events")
}

/// Hash of a summary, over the compact text with the keys in exactly this order.
pub fn projection_hash(run_id: RunId, status: &str, last_seq: i64, event_count: i64) -> String {
    let summary =
        json!({"run_id": run_id, "status": status, "last_seq": last_seq, "event_count": event_count});
    sha256_hex(&summary.to_string())
}

/// How far a run's projections are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Projection {
    /// 0 when there is no checkpoint.
    pub(crate) last_seq: i64,
    pub(crate) event_count: i64,
}

/// An event came that was not the next one; fields are named as the columns are.
#[expect(clippy::struct_field_names, reason = "the columns' names")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drift {
    pub(crate) expected_next_seq: i64,
    pub(crate) last_seen_seq: i64,
    pub(crate) incoming_seq: i64,
}

impl Projection {
    pub(crate) fn read(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            last_seq: column(row, "last_seq")?,
            event_count: column(row, "event_count")?,
        })
    }

    /// The apply rule for one event.
    pub(crate) fn apply(&mut self, seq: i64) -> Option<Drift> {
        if seq <= self.last_seq {
            return None;
        }
        let expected = self.last_seq + 1;
        let drift = (seq != expected).then_some(Drift {
            expected_next_seq: expected,
            last_seen_seq: self.last_seq,
            incoming_seq: seq,
        });
        self.last_seq = seq;
        self.event_count += 1;
        drift
    }
}

/// The last event of a commit, as the projections show it.
pub(crate) struct Newest<'a> {
    pub(crate) run_id: RunId,
    pub(crate) event_type: &'a str,
    /// State word of the run after the commit.
    pub(crate) status: &'a str,
    pub(crate) at: Timestamp,
}

/// What checkpoint and summary are to be after a commit.
pub(crate) struct Projected {
    /// The record of an event that was not the next one.
    pub(crate) drift: Option<Statement>,
    /// Topic, last seq, type of the last event, its time, state word, event count, hash: for the statement that writes the
    /// events.
    pub(crate) params: Vec<Param>,
}

/// The projections after `seqs`.
pub(crate) fn project(
    mut projection: Projection,
    seqs: impl Iterator<Item = i64>,
    newest: &Newest<'_>,
) -> Projected {
    let mut drift = None;
    for seq in seqs {
        drift = drift.or(projection.apply(seq));
    }
    let topic = topic(newest.run_id);
    let hash = projection_hash(
        newest.run_id,
        newest.status,
        projection.last_seq,
        projection.event_count,
    );
    let drift = drift.map(|drift| {
        let params = params![
            topic.clone(),
            drift.expected_next_seq,
            drift.last_seen_seq,
            drift.incoming_seq,
            newest.at
        ];
        Statement::new(WRITE_DRIFT, params)
    });
    let params = params![
        topic,
        projection.last_seq,
        newest.event_type.to_owned(),
        newest.at,
        newest.status.to_owned(),
        projection.event_count,
        hash
    ];
    Projected { drift, params }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_projection_hash_comes_out() {
        let run: RunId = "01951d2a-6c15-7c9f-99c2-cf8ad72a23f0".parse().unwrap();
        assert_eq!(
            projection_hash(run, "succeeded", 2, 2),
            "sha256:5bdc05b87f44ea68e74355094e2a1a6015292ad7bd5b63378d3ff3d89f977a18"
        );
    }

    #[test]
    fn known_events_are_ignored_and_a_gap_is_applied_and_recorded() {
        let mut projection = Projection {
            last_seq: 2,
            event_count: 2,
        };
        assert_eq!(projection.apply(2), None);
        assert_eq!(projection.apply(3), None);
        let drift = Drift {
            expected_next_seq: 4,
            last_seen_seq: 3,
            incoming_seq: 6,
        };
        assert_eq!(projection.apply(6), Some(drift));
        assert_eq!(
            projection,
            Projection {
                last_seq: 6,
                event_count: 4
            }
        );
        assert!(
            Projection::default().apply(2).is_some(),
            "the first event of a topic must be 1"
        );
    }
}
