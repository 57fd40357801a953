//! Comparing projections of runs with their events, and making them anew.
//!
//! Invariants: a rebuild deletes the run's checkpoint, summary and drift rows and writes them from the events in one
//! transaction that holds the run row's lock, as every writer does, so it may run while others write; what it writes
//! depends on nothing but the run and its events, so twice gives the same. Looking alone is one statement, that
//! is one state.

use crate::authority::row::column;
use crate::db::Db;
use crate::db::tx::{Statement, Tx, params, query};
use crate::projectors::{projection_hash, topic};
use crate::store::StoreError;
use domain::ids::RunId;
use jiff::Timestamp;
use tokio_postgres::Row;

const SELECT: &str = "SELECT id FROM agent_runs
    WHERE ($1::uuid IS NULL OR id = $1) AND ($2::text IS NULL OR thread_id = $2)
      AND ($3::timestamptz IS NULL OR last_event_at >= $3) AND ($4::timestamptz IS NULL OR last_event_at <= $4)
    ORDER BY created_at, id LIMIT $5";

const LOCK: &str = "SELECT 1 FROM agent_runs WHERE id = $1 FOR UPDATE";

/// Parameters: run id, topic.
const LOOK: &str = "SELECT v.status, e.events, e.latest, l.event_type, l.recorded_at,
        c.last_seq AS watermark, c.last_event_type,
        s.status AS summary_status, s.last_seq AS summary_seq, s.event_count, s.projection_hash,
        d.reason, g.expected AS gap_expected, g.seen AS gap_seen, g.incoming AS gap_incoming, g.at AS gap_at
    FROM runtime.runs v
    CROSS JOIN LATERAL (SELECT count(*) AS events, coalesce(max(seq), 0) AS latest
        FROM runtime.run_events WHERE run_id = v.run_id) e
    LEFT JOIN LATERAL (SELECT event_type, recorded_at FROM runtime.run_events
        WHERE run_id = v.run_id ORDER BY seq DESC LIMIT 1) l ON true
    LEFT JOIN LATERAL (SELECT seen + 1 AS expected, seen, seq AS incoming, recorded_at AS at
        FROM (SELECT seq, recorded_at, lag(seq, 1, 0::bigint) OVER (ORDER BY seq) AS seen
            FROM runtime.run_events WHERE run_id = v.run_id) n
        WHERE e.events <> e.latest AND seq <> seen + 1 ORDER BY seq LIMIT 1) g ON true
    LEFT JOIN runtime.projection_checkpoints c ON c.topic = $2
    LEFT JOIN runtime.run_summaries s ON s.run_id = v.run_id
    LEFT JOIN runtime.projection_drift d ON d.topic = $2
    WHERE v.run_id = $1";

const DELETE_CHECKPOINT: &str = "DELETE FROM runtime.projection_checkpoints WHERE topic = $1";
const DELETE_DRIFT: &str = "DELETE FROM runtime.projection_drift WHERE topic = $1";
const DELETE_SUMMARY: &str = "DELETE FROM runtime.run_summaries WHERE run_id = $1";
const INSERT_CHECKPOINT: &str = "INSERT INTO runtime.projection_checkpoints
    (topic, last_seq, last_event_type, updated_at) VALUES ($1, $2, $3, $4)";
const INSERT_SUMMARY: &str = "INSERT INTO runtime.run_summaries
    (run_id, status, last_seq, event_count, projection_hash, updated_at) VALUES ($1, $2, $3, $4, $5, $6)";
const INSERT_DRIFT: &str = "INSERT INTO runtime.projection_drift
    (topic, expected_next_seq, last_seen_seq, incoming_seq, reason, detected_at)
    VALUES ($1, $2, $3, $4, 'sequence_gap', $5)";

/// Which runs; every part given must hold.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    pub run_id: Option<RunId>,
    pub thread_id: Option<String>,
    /// By the time of the last event.
    pub since: Option<Timestamp>,
    /// By the time of the last event.
    pub until: Option<Timestamp>,
    /// At most this many, the oldest first.
    pub limit: i64,
}

/// What to do with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Change nothing.
    pub dry_run: bool,
    /// Leave alone what is right.
    pub reconcile: bool,
    /// With `reconcile`: make anew what is wrong.
    pub repair: bool,
}

/// What was done with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Reprojected,
    DryRunReproject,
    InSync,
    Repaired,
    DriftDetectedNoRepair,
    DryRunDetectedDrift,
}

impl Action {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reprojected => "reprojected",
            Self::DryRunReproject => "dry_run_reproject",
            Self::InSync => "in_sync",
            Self::Repaired => "repaired",
            Self::DriftDetectedNoRepair => "drift_detected_no_repair",
            Self::DryRunDetectedDrift => "dry_run_detected_drift",
        }
    }

    /// Rows were written.
    pub const fn repairs(self) -> bool {
        matches!(self, Self::Reprojected | Self::Repaired)
    }
}

/// A run after its treatment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub action: Action,
    /// Projections and events still differ.
    pub drift: bool,
    /// What was wrong before: `event_count_mismatch`, `watermark_behind`, `summary_hash_mismatch`, or the reason of
    /// the recorded drift.
    pub reasons: Vec<String>,
    /// Last seq of the checkpoint.
    pub watermark: i64,
    /// Last seq of the events.
    pub latest: i64,
}

/// Ids of the selected runs.
pub async fn select(db: &Db, selection: &Selection) -> Result<Vec<RunId>, StoreError> {
    let params = params![
        selection.run_id.map(|run| run.0),
        selection.thread_id.clone(),
        selection.since,
        selection.until,
        selection.limit
    ];
    let rows = query(db, Statement::new(SELECT, params)).await?;
    rows.iter().map(|row| Ok(RunId(row.try_get(0)?))).collect()
}

/// Treats one run.
pub async fn reproject(db: &Db, run_id: RunId, plan: Plan) -> Result<Outcome, StoreError> {
    let seen = look(db, run_id).await?;
    let (in_sync, repair) = match plan {
        Plan { reconcile: false, .. } => (false, !plan.dry_run),
        Plan { dry_run, repair, .. } => (seen.reasons.is_empty(), !dry_run && repair),
    };
    if repair && !in_sync {
        let action = if plan.reconcile {
            Action::Repaired
        } else {
            Action::Reprojected
        };
        return rebuild(db, run_id, action).await;
    }
    let action = match (plan.reconcile, in_sync, plan.dry_run) {
        (false, ..) => Action::DryRunReproject,
        (true, true, _) => Action::InSync,
        (true, false, true) => Action::DryRunDetectedDrift,
        (true, false, false) => Action::DriftDetectedNoRepair,
    };
    Ok(Outcome {
        action,
        drift: !seen.reasons.is_empty(),
        watermark: seen.watermark,
        latest: seen.latest,
        reasons: seen.reasons,
    })
}

/// A run's projections beside what its events say.
struct Seen {
    status: String,
    events: i64,
    latest: i64,
    /// Type and time of the last event.
    last: Option<(String, Timestamp)>,
    /// The first event that is not the next one: expected, seen, incoming, its time.
    gap: Option<(i64, i64, i64, Timestamp)>,
    watermark: i64,
    reasons: Vec<String>,
}

async fn look(db: &Db, run_id: RunId) -> Result<Seen, StoreError> {
    let rows = query(db, Statement::new(LOOK, params![run_id.0, topic(run_id)])).await?;
    Seen::read(run_id, &rows)
}

impl Seen {
    fn read(run_id: RunId, rows: &[Row]) -> Result<Self, StoreError> {
        let row = rows.first().ok_or_else(|| StoreError::row("run not found"))?;
        let mut seen = Self {
            status: column(row, "status")?,
            events: column(row, "events")?,
            latest: column(row, "latest")?,
            last: None,
            gap: None,
            watermark: column::<Option<i64>>(row, "watermark")?.unwrap_or(0),
            reasons: vec![],
        };
        if let Some(event_type) = column(row, "event_type")? {
            seen.last = Some((event_type, column(row, "recorded_at")?));
        }
        if let Some(expected) = column(row, "gap_expected")? {
            let (before, incoming) = (column(row, "gap_seen")?, column(row, "gap_incoming")?);
            seen.gap = Some((expected, before, incoming, column(row, "gap_at")?));
        }
        seen.reasons = seen.faults(run_id, row)?;
        Ok(seen)
    }

    fn faults(&self, run_id: RunId, row: &Row) -> Result<Vec<String>, StoreError> {
        let mut reasons = vec![];
        let mut expect = |right: bool, reason: &str| {
            if !right {
                reasons.push(reason.to_owned());
            }
        };
        let counted: Option<i64> = column(row, "event_count")?;
        expect(counted.unwrap_or(0) == self.events, "event_count_mismatch");
        let last_type: Option<String> = column(row, "last_event_type")?;
        let named = last_type.as_deref() == self.last.as_ref().map(|(event_type, _)| event_type.as_str());
        expect(self.watermark == self.latest && named, "watermark_behind");
        let stored: Option<String> = column(row, "projection_hash")?;
        let shown = match (column::<Option<String>>(row, "summary_status")?, counted) {
            (Some(status), Some(counted)) => Some(projection_hash(
                run_id,
                &status,
                column(row, "summary_seq")?,
                counted,
            )),
            _ => None,
        };
        let right =
            (self.latest > 0).then(|| projection_hash(run_id, &self.status, self.latest, self.events));
        expect(stored == right && shown == right, "summary_hash_mismatch");
        if let Some(reason) = column::<Option<String>>(row, "reason")?
            && self.gap.is_none()
        {
            reasons.push(reason);
        }
        Ok(reasons)
    }
}

/// Deletes and writes anew, under the run row's lock.
async fn rebuild(db: &Db, run_id: RunId, action: Action) -> Result<Outcome, StoreError> {
    let reads = vec![
        Statement::new(LOCK, params![run_id.0]),
        Statement::new(LOOK, params![run_id.0, topic(run_id)]),
    ];
    let (tx, rows) = Tx::begin(db, reads).await?;
    let seen = match rows.get(1).map(|rows| Seen::read(run_id, rows)) {
        Some(Ok(seen)) => seen,
        Some(Err(error)) => {
            tx.roll_back().await?;
            return Err(error);
        }
        None => return Err(StoreError::row("two answers expected")),
    };
    tx.commit(rows_of(run_id, &seen)).await?;
    Ok(Outcome {
        action,
        drift: false,
        watermark: seen.latest,
        latest: seen.latest,
        reasons: seen.reasons,
    })
}

fn rows_of(run_id: RunId, seen: &Seen) -> Vec<Statement> {
    let topic = topic(run_id);
    let mut statements = vec![
        Statement::new(DELETE_CHECKPOINT, params![topic.clone()]),
        Statement::new(DELETE_DRIFT, params![topic.clone()]),
        Statement::new(DELETE_SUMMARY, params![run_id.0]),
    ];
    if let Some((event_type, at)) = &seen.last {
        let hash = projection_hash(run_id, &seen.status, seen.latest, seen.events);
        let (checkpoint, summary) = (
            params![topic.clone(), seen.latest, event_type.clone(), *at],
            params![run_id.0, seen.status.clone(), seen.latest, seen.events, hash, *at],
        );
        statements.push(Statement::new(INSERT_CHECKPOINT, checkpoint));
        statements.push(Statement::new(INSERT_SUMMARY, summary));
    }
    if let Some((expected, before, incoming, at)) = seen.gap {
        let params = params![topic, expected, before, incoming, at];
        statements.push(Statement::new(INSERT_DRIFT, params));
    }
    statements
}
