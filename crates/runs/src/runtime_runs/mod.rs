//! Runs as `/internal/v1` sees them: made here or by the platform, one sequence of events for both surfaces.
//!
//! Checks of an append, in this order: type, run exists, key replay, state machine, expected seq.

mod append;
mod chain;
mod recordings;
mod view;

pub use chain::{ChainReport, run_ids, verify};
pub use recordings::Replay;
pub use view::{EventWindow, RuntimeEvent, RuntimeRun};

pub(crate) use append::stop;

use crate::authority::batch::{Batch, Context, Twin, to_micros};
use crate::authority::create::{fresh_row, fresh_state};
use crate::db::Db;
use crate::db::tx::{Statement, Tx, params};
use crate::figures;
use crate::orchestration::Committed;
use crate::projectors::Projection;
use crate::runtime_machine::Refusal;
use crate::store::{Fault, StoreError};
use domain::clock::{Clock, Ids};
use domain::event::{LogType, NewEvent};
use domain::ids::{RunId, UserId};
use domain::redact::Redactor;
use domain::run::{Origin, RunState};
use domain::status::RunStatus;
use domain::storable::Storable as _;
use jiff::SignedDuration;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;

const INSERT_RUN: &str = "INSERT INTO agent_runs
        (id, origin, user_id, status, metadata, runtime_metadata, worker_id, thread_id, owner_guest_scope,
         created_at, last_event_at)
    VALUES ($1, 'runtime', $2, 'executing', $3, $4, $5, $6, $7, $8, $8)";

/// Why a request changed nothing; `Display` is the contract's message.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// 404 without a message.
    #[error("run not found")]
    NotFound,
    /// 400.
    #[error("{0}")]
    Invalid(String),
    /// 403.
    #[error("{0}")]
    Forbidden(String),
    /// 409.
    #[error("{0}")]
    Conflict(String),
    #[error("run store is unavailable")]
    Unavailable(#[source] Fault),
    #[error("run store failed")]
    Database(#[source] Fault),
}

impl From<StoreError> for RuntimeError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(fault) => Self::Unavailable(fault),
            StoreError::Database(fault) => Self::Database(fault),
        }
    }
}

impl From<Refusal> for RuntimeError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Invalid(text) => Self::Invalid(text),
            Refusal::Conflict(text) => Self::Conflict(text),
        }
    }
}

/// A run to be driven from outside.
#[derive(Debug, Clone, Default)]
pub struct NewRuntimeRun {
    pub worker_id: Option<String>,
    /// Any JSON; key order is kept in replies.
    pub metadata: Value,
}

/// An event from outside.
#[derive(Debug, Clone)]
pub struct AppendEvent {
    pub event_type: String,
    pub payload: Value,
    /// Scope is (run, key), for ever.
    pub idempotency_key: Option<String>,
    /// Not negative.
    pub expected_previous_seq: Option<i64>,
}

/// What an append led to.
#[derive(Debug, Clone)]
pub struct Appended {
    pub run: RuntimeRun,
    pub events: Vec<RuntimeEvent>,
    /// The key was known: header `Idempotent-Replay: true`.
    pub replayed: bool,
    /// What is left to do after the commit; nothing when nothing was written.
    pub committed: Option<Committed>,
}

/// The write and read side of `/internal/v1/runs`.
#[derive(Debug, Clone)]
pub struct RuntimeRuns {
    db: Db,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    redactor: Arc<Redactor>,
}

impl RuntimeRuns {
    pub fn new(db: Db, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self {
            db,
            clock,
            ids,
            redactor: Arc::default(),
        }
    }

    /// What must not be stored; without it the policy applies without known secrets.
    #[must_use]
    pub fn with_redactor(self, redactor: Arc<Redactor>) -> Self {
        Self { redactor, ..self }
    }

    /// What of a payload, of metadata or of a reason is stored. Payloads are compared after it.
    fn storable(&self, mut value: Value) -> Value {
        value.make_storable();
        self.redactor.value(&mut value);
        value
    }

    fn context(&self) -> Context<'_> {
        Context {
            now: self.clock.now(),
            ids: &*self.ids,
            redactor: &self.redactor,
            credits_enforced: false,
            run_timeout: SignedDuration::ZERO,
        }
    }

    /// Makes a run; event 1 is `run.started`.
    pub async fn create(
        &self,
        new: NewRuntimeRun,
    ) -> Result<(RuntimeRun, Vec<RuntimeEvent>, Committed), RuntimeError> {
        let run_id = RunId(self.ids.uuid());
        let created_at = to_micros(self.clock.now());
        let (insert, state) = insert(run_id, &new, self.storable(new.metadata.clone()), created_at);
        let mut batch = Batch::new(self.context(), fresh_row(state, created_at), HashMap::new());
        let payload = json!({"source": "runtime"});
        batch.push_twin(
            public_line("run.started", &payload),
            twin("run.started", payload, None),
        );
        let (rest, run, events) = batch.finish(Projection::default());
        let (tx, _) = Tx::begin(&self.db, vec![]).await?;
        let written = tx.commit(std::iter::once(insert).chain(rest).collect()).await;
        written.inspect_err(|_| figures::commit_failed())?;
        let (view, twins) = self.get(run_id, EventWindow::default()).await?;
        Ok((view, twins, committed(run.state, events)))
    }

    /// The run and the events of the window, as one consistent state.
    pub async fn get(
        &self,
        run_id: RunId,
        window: EventWindow,
    ) -> Result<(RuntimeRun, Vec<RuntimeEvent>), RuntimeError> {
        view::load(&self.db, run_id, window)
            .await?
            .ok_or(RuntimeError::NotFound)
    }

    /// `{"topic","last_seq","last_event_type","updated_at"}` of a run.
    pub async fn checkpoint(&self, run_id: RunId) -> Result<Value, RuntimeError> {
        view::checkpoint(&self.db, run_id)
            .await?
            .ok_or(RuntimeError::NotFound)
    }

    /// `{"run_id","status","last_seq","event_count","projection_hash","updated_at"}` of a run.
    pub async fn summary(&self, run_id: RunId) -> Result<Value, RuntimeError> {
        view::summary(&self.db, run_id)
            .await?
            .ok_or(RuntimeError::NotFound)
    }

    /// The drift row of a topic, or nothing.
    pub async fn drift(&self, topic: &str) -> Result<Option<Value>, RuntimeError> {
        if topic.trim().is_empty() {
            return Err(RuntimeError::Invalid(
                "topic is required for drift lookup".to_owned(),
            ));
        }
        Ok(view::drift(&self.db, topic).await?)
    }
}

fn text(metadata: &Value, key: &str) -> Option<String> {
    match metadata.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// `metadata` is what is stored of the caller's, whose own fields say who owns the run.
fn insert(
    run_id: RunId,
    new: &NewRuntimeRun,
    metadata: Value,
    created_at: jiff::Timestamp,
) -> (Statement, RunState) {
    let owner = text(&new.metadata, "owner_user_id").filter(|owner| !owner.is_empty());
    let (stored, kept) = match metadata {
        Value::Null => (json!({}), None),
        given => (given.clone(), Some(given)),
    };
    let params = params![
        run_id.0,
        owner.clone(),
        stored,
        kept,
        new.worker_id.clone(),
        text(&new.metadata, "thread_id"),
        text(&new.metadata, "owner_guest_scope"),
        created_at
    ];
    let state = fresh_state(run_id, Origin::Runtime, RunStatus::Executing);
    let state = RunState {
        user_id: owner.map(UserId),
        ..state
    };
    (Statement::new(INSERT_RUN, params), state)
}

fn twin(event_type: &str, payload: Value, idempotency_key: Option<String>) -> Twin {
    Twin {
        event_type: event_type.to_owned(),
        payload,
        idempotency_key,
    }
}

/// How an event from outside looks in the public log.
fn public_line(event_type: &str, payload: &Value) -> NewEvent {
    let metadata = json!({"event_type": event_type, "payload": payload});
    NewEvent::new(LogType::Info, event_type, metadata)
}

fn committed(run: RunState, events: Vec<domain::event::Event>) -> Committed {
    Committed {
        run,
        events,
        enqueue: None,
        remove_job: None,
        retry_job: None,
    }
}
