//! Workers as `/internal/v1/workers` knows them: programs of others that register, send heartbeats and end.
//!
//! Invariants: every change is one transaction under the worker row's lock: the row, its lifecycle event (seq from 1
//! without gap) and the checkpoint `worker:<id>:lifecycle`. A worker belongs to one owner for ever. Times of
//! one worker never go back. How alive a worker is, is computed when asked.

mod status;
mod view;

pub use status::WorkerStatus;
pub use view::{Worker, WorkerOwner};

use crate::authority::batch::to_micros;
use crate::db::Db;
use crate::db::tx::{Param, Statement, Tx, params, query};
use crate::reader::rows::to_value;
use crate::runtime_runs::RuntimeError;
use domain::clock::{Clock, Ids};
use domain::redact::Redactor;
use domain::storable::Storable as _;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Longest worker id, in bytes.
const MAX_ID_BYTES: usize = 512;

macro_rules! columns {
    () => {
        "worker_id, owner_user_id, owner_guest_scope, workspace_ref, codex_home_ref, adapter, status, latest_seq, \
         metadata, started_at, stopped_at, last_heartbeat_at, updated_at"
    };
}

const GET: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM runtime.workers WHERE worker_id = $1"
);
const LOCK: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM runtime.workers WHERE worker_id = $1 FOR UPDATE"
);

/// A fresh row has seq 0; its first event comes in the same transaction.
const INSERT: &str = "INSERT INTO runtime.workers
        (worker_id, owner_user_id, owner_guest_scope, adapter, status, metadata, started_at, updated_at)
    VALUES ($1, $2, $3, 'in_memory', 'running', '{}', $4, $4) ON CONFLICT (worker_id) DO NOTHING";

const WRITE: &str = "WITH worker AS (
        UPDATE runtime.workers SET workspace_ref = $2, codex_home_ref = $3, adapter = $4, status = $5,
            latest_seq = $6, metadata = $7, stopped_at = $8, last_heartbeat_at = $9, updated_at = $10
        WHERE worker_id = $1),
    event AS (
        INSERT INTO runtime.worker_events (worker_id, seq, event_type, payload, recorded_at)
        VALUES ($1, $6, $11, $12, $10))
    INSERT INTO runtime.projection_checkpoints (topic, last_seq, last_event_type, updated_at)
    VALUES ($13, $6, $11, $10)
    ON CONFLICT (topic) DO UPDATE SET last_seq = excluded.last_seq,
        last_event_type = excluded.last_event_type, updated_at = excluded.updated_at";

const CHECKPOINT: &str = "SELECT topic, last_seq, last_event_type, updated_at
    FROM runtime.projection_checkpoints WHERE topic = $1";

/// A worker that says it is there.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Blank or none: one is made up.
    pub worker_id: Option<String>,
    pub owner: WorkerOwner,
    pub workspace_ref: Option<String>,
    pub codex_home_ref: Option<String>,
    pub adapter: Option<String>,
    pub metadata: Map<String, Value>,
}

/// The write and read side of `/internal/v1/workers`.
#[derive(Debug, Clone)]
pub struct Workers {
    db: Db,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    stale_after_ms: i64,
    redactor: Arc<Redactor>,
}

impl Workers {
    /// A worker whose last heartbeat is more than `stale_after_ms` ago is stale.
    pub fn new(db: Db, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>, stale_after_ms: i64) -> Self {
        Self {
            db,
            clock,
            ids,
            stale_after_ms,
            redactor: Arc::default(),
        }
    }

    /// What must not be stored; without it the policy applies without known secrets.
    #[must_use]
    pub fn with_redactor(self, redactor: Arc<Redactor>) -> Self {
        Self { redactor, ..self }
    }

    /// What of metadata, of a reason or of an event's payload is stored.
    fn storable(&self, mut value: Value) -> Value {
        value.make_storable();
        self.redactor.value(&mut value);
        value
    }

    /// The worker with its liveness, as the replies show it.
    pub fn show(&self, worker: &Worker) -> Value {
        worker.to_json(self.clock.now(), self.stale_after_ms)
    }

    /// Registers a worker, or a known one again.
    pub async fn register(&self, new: Registration) -> Result<Worker, RuntimeError> {
        let given = new.worker_id.filter(|id| !id.trim().is_empty());
        let worker_id = given.unwrap_or_else(|| format!("codexw_{}", self.ids.uuid()));
        if worker_id.len() > MAX_ID_BYTES {
            return Err(RuntimeError::Invalid("worker_id is too long".to_owned()));
        }
        let now = to_micros(self.clock.now());
        let owner = &new.owner;
        let insert = params![worker_id.clone(), owner.user_id(), owner.guest_scope(), now];
        let before = vec![Statement::new(INSERT, insert)];
        let mut locked = self.lock(before, &worker_id, owner).await?;
        let worker = &mut locked.worker;
        worker.workspace_ref = new.workspace_ref;
        worker.codex_home_ref = new.codex_home_ref;
        worker.adapter = new.adapter.unwrap_or_else(|| "in_memory".to_owned());
        merge(&mut worker.metadata, self.storable(Value::Object(new.metadata)));
        if worker.status.is_over() {
            worker.status = WorkerStatus::Running;
            worker.stopped_at = None;
        }
        let payload = json!({"adapter": worker.adapter, "workspace_ref": worker.workspace_ref,
            "codex_home_ref": worker.codex_home_ref});
        worker.last_heartbeat_at = Some(locked.at);
        locked.commit("worker.started", self.storable(payload)).await
    }

    /// Notes a sign of life and merges the patch into the metadata.
    pub async fn heartbeat(
        &self,
        worker_id: &str,
        owner: &WorkerOwner,
        patch: Map<String, Value>,
    ) -> Result<Worker, RuntimeError> {
        let mut locked = self.lock(vec![], worker_id, owner).await?;
        let patch = self.storable(Value::Object(patch));
        let payload = json!({"metadata_patch": patch});
        merge(&mut locked.worker.metadata, patch);
        locked.worker.last_heartbeat_at = Some(locked.at);
        locked.commit("worker.heartbeat", payload).await
    }

    /// Moves a worker to another state, if the table allows it.
    pub async fn set_status(
        &self,
        worker_id: &str,
        owner: &WorkerOwner,
        to: WorkerStatus,
        reason: Option<String>,
    ) -> Result<Worker, RuntimeError> {
        let mut locked = self.lock(vec![], worker_id, owner).await?;
        let from = locked.worker.status;
        if !from.may_become(to) {
            locked.tx.roll_back().await?;
            let text = format!("invalid worker transition from {from:?} to {to:?}");
            return Err(RuntimeError::Invalid(text));
        }
        locked.worker.status = to;
        locked.worker.stopped_at = match (to.is_over(), locked.worker.stopped_at) {
            (true, Some(at)) if from == to => Some(at),
            (true, _) => Some(locked.at),
            (false, _) => None,
        };
        let payload = json!({"from": from.as_str(), "status": to.as_str(), "reason": reason});
        locked.commit(to.event_type(), self.storable(payload)).await
    }

    /// The worker, if it is the owner's.
    pub async fn get(&self, worker_id: &str, owner: &WorkerOwner) -> Result<Worker, RuntimeError> {
        let worker = self.found(worker_id).await?;
        if worker.owner == *owner {
            Ok(worker)
        } else {
            Err(mismatch(worker_id))
        }
    }

    /// `{"topic","last_seq","last_event_type","updated_at"}` of the worker's lifecycle; the owner must match when given.
    pub async fn checkpoint(
        &self,
        worker_id: &str,
        owner: Option<&WorkerOwner>,
    ) -> Result<Value, RuntimeError> {
        let worker = self.found(worker_id).await?;
        if owner.is_some_and(|owner| *owner != worker.owner) {
            return Err(mismatch(worker_id));
        }
        let rows = query(&self.db, Statement::new(CHECKPOINT, params![topic(worker_id)])).await?;
        let row = rows.first().ok_or(RuntimeError::NotFound)?;
        Ok(to_value(row)?)
    }

    async fn found(&self, worker_id: &str) -> Result<Worker, RuntimeError> {
        let rows = query(&self.db, Statement::new(GET, params![worker_id.to_owned()])).await?;
        let row = rows.first().ok_or(RuntimeError::NotFound)?;
        Ok(Worker::read(row)?)
    }

    /// Locks the worker's row after `before`; unknown ids and other owners are refused.
    async fn lock(
        &self,
        before: Vec<Statement>,
        worker_id: &str,
        owner: &WorkerOwner,
    ) -> Result<Locked, RuntimeError> {
        let mut reads = before;
        reads.push(Statement::new(LOCK, params![worker_id.to_owned()]));
        let (tx, rows) = Tx::begin(&self.db, reads).await?;
        let row = rows.last().and_then(|rows| rows.first());
        let refused = match row.map(Worker::read).transpose()? {
            Some(worker) if worker.owner == *owner => {
                let at = to_micros(self.clock.now()).max(worker.updated_at);
                return Ok(Locked { tx, worker, at });
            }
            Some(_) => mismatch(worker_id),
            None => RuntimeError::NotFound,
        };
        tx.roll_back().await?;
        Err(refused)
    }
}

fn mismatch(worker_id: &str) -> RuntimeError {
    RuntimeError::Forbidden(format!("owner mismatch for worker {worker_id}"))
}

fn topic(worker_id: &str) -> String {
    format!("worker:{worker_id}:lifecycle")
}

/// Key by key at the top level.
fn merge(metadata: &mut Value, patch: Value) {
    match (metadata, patch) {
        (Value::Object(members), Value::Object(patch)) => members.extend(patch),
        (metadata, patch) => *metadata = patch,
    }
}

/// A worker whose row is locked until the transaction ends.
struct Locked {
    tx: Tx,
    worker: Worker,
    /// The time of this change.
    at: Timestamp,
}

impl Locked {
    /// Writes the row as it is now, its event and the checkpoint.
    async fn commit(self, event_type: &'static str, payload: Value) -> Result<Worker, RuntimeError> {
        let Self { tx, mut worker, at } = self;
        worker.latest_seq += 1;
        worker.updated_at = at;
        let mut params = row_params(&worker);
        params.extend(params![event_type, payload, topic(&worker.worker_id)]);
        tx.commit(vec![Statement::new(WRITE, params)]).await?;
        Ok(worker)
    }
}

/// `$1` to `$10`.
fn row_params(worker: &Worker) -> Vec<Param> {
    params![
        worker.worker_id.clone(),
        worker.workspace_ref.clone(),
        worker.codex_home_ref.clone(),
        worker.adapter.clone(),
        worker.status.as_str(),
        worker.latest_seq,
        worker.metadata.clone(),
        worker.stopped_at,
        worker.last_heartbeat_at,
        worker.updated_at,
    ]
}
