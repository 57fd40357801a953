//! What `/internal/v1` shows of runs, events and projections.

use crate::authority::row::column;
use crate::db::Db;
use crate::db::tx::{Param, Statement, params, query};
use crate::projectors;
use crate::reader::rows::to_value;
use crate::store::StoreError;
use domain::clock::wire_time;
use domain::ids::RunId;
use domain::recording::{Recorded, Session, policy_bundle_id};
use domain::run::Origin;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::Row;

const RUN: &str = "SELECT r.id, r.origin, r.worker_id, r.thread_id, r.user_id, r.owner_guest_scope,
        v.status, r.last_seq, r.event_head_hash, r.created_at, r.last_event_at AS updated_at,
        CASE WHEN r.origin = 'runtime' THEN r.runtime_metadata ELSE r.metadata::json END AS metadata
    FROM agent_runs r JOIN runtime.runs v ON v.run_id = r.id WHERE r.id = $1";

const EVENTS: &str = "SELECT seq, event_type, payload, idempotency_key, recorded_at, prev_hash, event_hash
    FROM runtime.run_events WHERE run_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq LIMIT $4";

const CHECKPOINT: &str = "SELECT topic, last_seq, last_event_type, updated_at
    FROM runtime.projection_checkpoints WHERE topic = $1";
const SUMMARY: &str = "SELECT run_id, status, last_seq, event_count, projection_hash, updated_at
    FROM runtime.run_summaries WHERE run_id = $1";
const DRIFT: &str = "SELECT topic, expected_next_seq, last_seen_seq, incoming_seq, reason, detected_at
    FROM runtime.projection_drift WHERE topic = $1";

/// Which events a reply carries; by default all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventWindow {
    /// Only events beyond this seq.
    pub after: Option<i64>,
    /// At most this many.
    pub limit: Option<i64>,
}

/// A run in this surface's words.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeRun {
    pub id: RunId,
    pub origin: Origin,
    pub worker_id: Option<String>,
    pub thread_id: Option<String>,
    pub user_id: Option<String>,
    pub owner_guest_scope: Option<String>,
    /// State word: `created`, `running`, `canceling`, `canceled`, `succeeded`, `failed`.
    pub status: String,
    pub metadata: Value,
    pub last_seq: i64,
    pub head_hash: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A stored event.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeEvent {
    pub seq: i64,
    pub event_type: String,
    /// Keys in the order received.
    pub payload: Value,
    pub idempotency_key: Option<String>,
    pub recorded_at: Timestamp,
    pub prev_hash: Option<String>,
    pub event_hash: String,
}

impl RuntimeRun {
    /// The run as receipts and replays name it; `id` is its id as text.
    pub(super) fn session<'a>(&'a self, id: &'a str) -> Session<'a> {
        Session {
            run_id: id,
            policy_bundle_id: policy_bundle_id(&self.metadata),
            created_at: self.created_at,
        }
    }

    /// The `run` object of the replies.
    pub fn to_json(&self, events: &[RuntimeEvent]) -> Value {
        json!({
            "id": self.id,
            "worker_id": self.worker_id,
            "status": self.status,
            "metadata": self.metadata,
            "events": events.iter().map(RuntimeEvent::to_json).collect::<Vec<_>>(),
            "created_at": wire_time(self.created_at),
            "updated_at": wire_time(self.updated_at),
        })
    }

    fn read(row: &Row) -> Result<Self, StoreError> {
        let origin: &str = column(row, "origin")?;
        Ok(Self {
            id: RunId(column(row, "id")?),
            origin: Origin::parse(origin).ok_or_else(|| StoreError::row("unknown origin"))?,
            worker_id: column(row, "worker_id")?,
            thread_id: column(row, "thread_id")?,
            user_id: column(row, "user_id")?,
            owner_guest_scope: column(row, "owner_guest_scope")?,
            status: column(row, "status")?,
            metadata: column::<Option<Value>>(row, "metadata")?.unwrap_or(Value::Null),
            last_seq: column(row, "last_seq")?,
            head_hash: column(row, "event_head_hash")?,
            created_at: column(row, "created_at")?,
            updated_at: column(row, "updated_at")?,
        })
    }
}

impl RuntimeEvent {
    /// The event as receipts and replays see it.
    pub(super) fn recorded(&self) -> Recorded<'_> {
        Recorded {
            seq: self.seq,
            event_type: &self.event_type,
            payload: &self.payload,
            idempotency_key: self.idempotency_key.as_deref(),
            recorded_at: self.recorded_at,
        }
    }

    pub fn to_json(&self) -> Value {
        json!({
            "seq": self.seq,
            "event_type": self.event_type,
            "payload": self.payload,
            "idempotency_key": self.idempotency_key,
            "recorded_at": wire_time(self.recorded_at),
        })
    }

    fn read(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            seq: column(row, "seq")?,
            event_type: column(row, "event_type")?,
            payload: column(row, "payload")?,
            idempotency_key: column(row, "idempotency_key")?,
            recorded_at: column(row, "recorded_at")?,
            prev_hash: column(row, "prev_hash")?,
            event_hash: column(row, "event_hash")?,
        })
    }
}

/// Events read at once where a whole run is walked through.
const PAGE: i64 = 256;

/// The run row is read first and bounds the events, so both are the state after one commit.
pub(super) async fn load(
    db: &Db,
    run_id: RunId,
    window: EventWindow,
) -> Result<Option<(RuntimeRun, Vec<RuntimeEvent>)>, StoreError> {
    let Some(run) = load_run(db, run_id).await? else {
        return Ok(None);
    };
    let params = params![run_id.0, window.after.unwrap_or(0), run.last_seq, window.limit];
    let events = load_events(db, params).await?;
    Ok(Some((run, events)))
}

pub(super) async fn load_run(db: &Db, run_id: RunId) -> Result<Option<RuntimeRun>, StoreError> {
    let rows = query(db, Statement::new(RUN, params![run_id.0])).await?;
    rows.first().map(RuntimeRun::read).transpose()
}

async fn load_events(db: &Db, params: Vec<Param>) -> Result<Vec<RuntimeEvent>, StoreError> {
    let rows = query(db, Statement::new(EVENTS, params)).await?;
    rows.iter().map(RuntimeEvent::read).collect()
}

/// The events of a run as it was when its row was read, page by page.
#[derive(Debug)]
pub(super) struct Pages {
    db: Db,
    run_id: RunId,
    after: i64,
    last_seq: i64,
}

impl Pages {
    pub(super) fn of(db: &Db, run: &RuntimeRun) -> Self {
        Self {
            db: db.clone(),
            run_id: run.id,
            after: 0,
            last_seq: run.last_seq,
        }
    }

    /// The next events; empty at the end.
    pub(super) async fn next(&mut self) -> Result<Vec<RuntimeEvent>, StoreError> {
        if self.after >= self.last_seq {
            return Ok(vec![]);
        }
        let params = params![self.run_id.0, self.after, self.last_seq, PAGE];
        let events = load_events(&self.db, params).await?;
        self.after = events.last().map_or(self.last_seq, |event| event.seq);
        Ok(events)
    }
}

async fn one(db: &Db, statement: Statement) -> Result<Option<Value>, StoreError> {
    let rows = query(db, statement).await?;
    rows.first().map(to_value).transpose()
}

pub(super) async fn checkpoint(db: &Db, run_id: RunId) -> Result<Option<Value>, StoreError> {
    one(db, Statement::new(CHECKPOINT, params![projectors::topic(run_id)])).await
}

pub(super) async fn summary(db: &Db, run_id: RunId) -> Result<Option<Value>, StoreError> {
    one(db, Statement::new(SUMMARY, params![run_id.0])).await
}

pub(super) async fn drift(db: &Db, topic: &str) -> Result<Option<Value>, StoreError> {
    one(db, Statement::new(DRIFT, params![topic.to_owned()])).await
}
