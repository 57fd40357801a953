//! Commands to runs: load under the row's lock, decide, commit. Each call is one transaction.
//!
//! What must follow a commit (push a job, publish events, take a job out of Redis) is in [`Committed`]; when
//! it fails, outbox relay and reconciler repeat it, so a caller never undoes a commit.

use crate::authority::batch::{Batch, Context, to_micros};
use crate::authority::create::{self, Creation};
use crate::authority::load::{Locked, lock};
use crate::authority::row::RunRow;
use crate::authority::write;
use crate::db::Db;
use crate::db::tx::{Statement, Tx, params};
use crate::store::{Fault, StoreError};
use domain::change::Change;
use domain::clock::{Clock, Ids};
use domain::command::{Command, Expiry, Release};
use domain::decide::{Decision, JobIntent, LeaseIntent, Rejection, decide};
use domain::event::Event;
use domain::ids::{JobId, RunId, UserId, WorkerId};
use domain::job::Job;
use domain::run::{Origin, RunState};
use domain::status::RunStatus;
use jiff::SignedDuration;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

pub use crate::authority::create::NewRun;

/// An idempotency key is forgotten after this long.
const IDEMPOTENCY_TTL: SignedDuration = SignedDuration::from_hours(24);

/// Takes the key, also an expired one; no row when it is taken. Waits for a transaction that is just taking it.
const TAKE_KEY: &str = "INSERT INTO agent_idempotency AS i (user_id, key, request_hash, answer, created_at)
    VALUES ($1, $2, $3, 'null', $4)
    ON CONFLICT (user_id, key) DO UPDATE
        SET request_hash = excluded.request_hash, answer = 'null', created_at = excluded.created_at
        WHERE i.created_at <= $5
    RETURNING true";
const READ_KEY: &str = "SELECT request_hash, answer FROM agent_idempotency WHERE user_id = $1 AND key = $2";
const STORE_ANSWER: &str = "UPDATE agent_idempotency SET answer = $3 WHERE user_id = $1 AND key = $2";

const RETRY_SOURCE: &str = "SELECT r.status, r.prompt, r.priority, r.metadata ->> 'project_id' AS project_id,
        coalesce((SELECT array_agg(c.connector_id ORDER BY c.position) FROM agent_run_connectors c
                   WHERE c.run_id = r.id), '{}') AS connector_ids
    FROM agent_runs r WHERE r.id = $1 AND r.user_id = $2";

/// `Idempotency-Key` of a create or retry; valid for 24 h per user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// 1 to 255 characters.
    pub key: String,
    /// SHA-256 of the request's body.
    pub request_hash: String,
}

/// What a commit led to, and what is left to do after it.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The run after the commit.
    pub run: RunState,
    /// The new events, to be published in this order.
    pub events: Vec<Event>,
    /// Push it, then tell [`crate::Outbox::sent`].
    pub enqueue: Option<Job>,
    /// Take it out of whatever Redis list holds it.
    pub remove_job: Option<JobId>,
    /// After `Release::Retry`: the job of the next attempt, to be moved to the retry list by the worker.
    pub retry_job: Option<Job>,
}

/// The outcome of a create.
#[derive(Debug, Clone)]
pub enum Created {
    New(Committed),
    /// The key was used before with the same body.
    Replayed {
        /// The answer stored then: `run_id`, `status`, `message`, `plan`.
        answer: Value,
    },
}

/// A worker holds the run.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// To be sent with every write of this claim.
    pub epoch: i64,
    pub committed: Committed,
}

/// Why a command changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Unknown, or somebody else's.
    #[error("run not found")]
    NotFound,
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Another claim has taken over, or this one was given back.
    #[error("the claim is stale")]
    Fenced,
    /// The run has another queue entry; this one is to be dropped.
    #[error("the job is a duplicate")]
    DuplicateJob,
    #[error("idempotency key was used with another body")]
    IdempotencyConflict,
    /// The same command may succeed later; its outcome may be unknown.
    #[error("run store is unavailable")]
    Unavailable(#[source] Fault),
    #[error("run store failed")]
    Database(#[source] Fault),
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(fault) => Self::Unavailable(fault),
            StoreError::Database(fault) => Self::Database(fault),
        }
    }
}

/// Limits the authority itself keeps.
#[derive(Debug, Clone, Copy)]
pub struct RunLimits {
    /// `AGENT_RUN_TIMEOUT_SECONDS`: working time from the first planning.
    pub run_timeout: Duration,
    /// `CREDITS_ENFORCED`: settled steps are charged to the user's balance.
    pub credits_enforced: bool,
}

impl Default for RunLimits {
    fn default() -> Self {
        Self {
            run_timeout: Duration::from_secs(3600),
            credits_enforced: false,
        }
    }
}

/// The one way to change a run.
#[derive(Debug, Clone)]
pub struct Orchestration {
    db: Db,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    limits: RunLimits,
}

impl Orchestration {
    pub fn new(db: Db, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self {
            db,
            clock,
            ids,
            limits: RunLimits::default(),
        }
    }

    #[must_use]
    pub fn with_limits(self, limits: RunLimits) -> Self {
        Self { limits, ..self }
    }

    fn context(&self) -> Context<'_> {
        Context {
            now: self.clock.now(),
            ids: &*self.ids,
            credits_enforced: self.limits.credits_enforced,
            run_timeout: SignedDuration::try_from(self.limits.run_timeout).unwrap_or(SignedDuration::MAX),
        }
    }

    /// Makes a run. Of simultaneous calls with one key one makes it, the others get its answer.
    pub async fn create(&self, new: NewRun, key: Option<IdempotencyKey>) -> Result<Created, CommandError> {
        let reads = key.iter().map(|key| self.take_key(&new.user_id, key)).collect();
        let (mut tx, taken) = Tx::begin(&self.db, reads).await?;
        if let (Some(key), Some([])) = (&key, taken.first().map(Vec::as_slice)) {
            let answer = replay(&mut tx, &new.user_id, key).await;
            tx.roll_back().await?;
            return answer.map(|answer| Created::Replayed { answer });
        }
        let Creation {
            mut statements,
            run,
            events,
            job,
        } = create::platform_run(&new, self.context())?;
        if let Some(key) = key {
            let params = params![new.user_id.0.clone(), key.key, answer(&run.state)];
            statements.push(Statement::new(STORE_ANSWER, params));
        }
        tx.commit(statements).await?;
        Ok(Created::New(Committed {
            run: run.state,
            events,
            enqueue: job,
            remove_job: None,
            retry_job: None,
        }))
    }

    fn take_key(&self, user: &UserId, key: &IdempotencyKey) -> Statement {
        let now = to_micros(self.clock.now());
        let expired = now.checked_sub(IDEMPOTENCY_TTL).unwrap_or(now);
        let params = params![
            user.0.clone(),
            key.key.clone(),
            key.request_hash.clone(),
            now,
            expired
        ];
        Statement::new(TAKE_KEY, params)
    }

    /// A new run of a failed run's prompt, project, connectors and priority, queued at once.
    /// `max_retries` is for the new run.
    pub async fn retry(
        &self,
        owner: &UserId,
        failed: RunId,
        key: Option<IdempotencyKey>,
        (traceparent, max_retries): (&str, u32),
    ) -> Result<Created, CommandError> {
        let read = Statement::new(RETRY_SOURCE, params![failed.0, owner.0.clone()]);
        let rows = crate::db::tx::query(&self.db, read).await?;
        let row = rows.first().ok_or(CommandError::NotFound)?;
        let status = RunStatus::parse(row.try_get("status").map_err(StoreError::from)?)
            .ok_or_else(|| StoreError::row("unknown status"))?;
        if status != RunStatus::Failed {
            return Err(Rejection::Transition {
                action: "retry",
                status,
            }
            .into());
        }
        let priority: i32 = row.try_get("priority").map_err(StoreError::from)?;
        let new = NewRun {
            user_id: owner.clone(),
            prompt: row.try_get("prompt").map_err(StoreError::from)?,
            connector_ids: row.try_get("connector_ids").map_err(StoreError::from)?,
            project_id: row.try_get("project_id").map_err(StoreError::from)?,
            priority: priority as u8,
            auto_start: true,
            retry_of: Some(failed),
            traceparent: traceparent.to_owned(),
            max_retries,
        };
        self.create(new, key).await
    }

    /// A user's command. `traceparent` goes on into the job when the command enqueues one.
    pub async fn command(
        &self,
        owner: &UserId,
        run_id: RunId,
        command: Command,
        traceparent: &str,
    ) -> Result<Committed, CommandError> {
        let mut locked = self.lock(run_id).await?;
        if locked.run.state.user_id.as_ref() != Some(owner) {
            return refuse(locked.tx, CommandError::NotFound).await;
        }
        if matches!(command, Command::Start { .. } | Command::Resume { .. }) && !traceparent.is_empty() {
            traceparent.clone_into(&mut locked.run.traceparent);
        }
        if locked.run.state.origin == Origin::Runtime && command == Command::Stop {
            return crate::runtime_runs::stop(locked, self.context()).await;
        }
        self.decide_and_commit(locked, command, Duration::ZERO).await
    }

    /// A worker takes the run of this job and holds it for `lease`.
    pub async fn claim(
        &self,
        run_id: RunId,
        worker: &WorkerId,
        job: &Job,
        lease: Duration,
    ) -> Result<Claimed, CommandError> {
        let locked = self.lock(run_id).await?;
        if let Some(refusal) = duplicate(&locked.run.state, job.job_id) {
            return refuse(locked.tx, refusal).await;
        }
        let command = Command::Claim {
            worker: worker.clone(),
            job_id: job.job_id,
        };
        let committed = self.decide_and_commit(locked, command, lease).await?;
        Ok(Claimed {
            epoch: committed.run.epoch,
            committed,
        })
    }

    /// What a worker's work led to. Refused when `epoch` is not the run's, or the run was given back.
    pub async fn progress(
        &self,
        run_id: RunId,
        epoch: i64,
        changes: Vec<Change>,
    ) -> Result<Committed, CommandError> {
        let locked = self.lock(run_id).await?;
        let state = &locked.run.state;
        let given_back = state.lease.is_none() && state.status.needs_job();
        if state.epoch != epoch || given_back {
            return refuse(locked.tx, CommandError::Fenced).await;
        }
        self.decide_and_commit(locked, Command::Progress(changes), Duration::ZERO)
            .await
    }

    /// A worker lets go.
    pub async fn release(
        &self,
        run_id: RunId,
        epoch: i64,
        release: Release,
    ) -> Result<Committed, CommandError> {
        let locked = self.lock(run_id).await?;
        if locked.run.state.epoch != epoch {
            return refuse(locked.tx, CommandError::Fenced).await;
        }
        if locked.run.state.status.is_final() {
            let ended = Rejection::Ended(locked.run.state.status);
            return refuse(locked.tx, ended.into()).await;
        }
        self.decide_and_commit(locked, Command::Release(release), Duration::ZERO)
            .await
    }

    /// A limit of the platform ran out.
    pub async fn expire(&self, run_id: RunId, expiry: Expiry) -> Result<Committed, CommandError> {
        let locked = self.lock(run_id).await?;
        if let Some(early) = not_yet(&locked.run, expiry, &self.context()) {
            return refuse(locked.tx, early.into()).await;
        }
        self.decide_and_commit(locked, Command::Expire(expiry), Duration::ZERO)
            .await
    }

    async fn lock(&self, run_id: RunId) -> Result<Locked, CommandError> {
        lock(&self.db, run_id).await?.ok_or(CommandError::NotFound)
    }

    async fn decide_and_commit(
        &self,
        locked: Locked,
        command: Command,
        lease: Duration,
    ) -> Result<Committed, CommandError> {
        let Locked {
            tx,
            run,
            open_steps,
            projection,
        } = locked;
        let settles_claim = matches!(command, Command::Release(_));
        let is_claim = matches!(command, Command::Claim { .. });
        let decision = match decide(&run.state, command) {
            Ok(decision) => decision,
            Err(rejection) => return refuse(tx, rejection.into()).await,
        };
        let mut batch = Batch::new(self.context(), run, open_steps);
        let job = enact(&mut batch, decision, lease)?;
        if settles_claim {
            batch.run.state.crash_count = 0;
        }
        let follow_up = follow_up(&mut batch, job, is_claim);
        let (statements, run, events) = batch.finish(projection);
        tx.commit(statements).await?;
        Ok(Committed {
            run: run.state,
            events,
            ..follow_up
        })
    }
}

/// Applies a decision to the batch; gives what becomes of the queue entry.
fn enact(batch: &mut Batch<'_>, decision: Decision, lease: Duration) -> Result<Enacted, StoreError> {
    let retried = matches!(decision.lease, LeaseIntent::DropForRetry { .. });
    for change in decision.changes {
        batch.apply(change)?;
    }
    batch.lease(decision.lease, lease.as_millis() as i64);
    Ok(Enacted {
        job: decision.job,
        retried,
    })
}

struct Enacted {
    job: JobIntent,
    retried: bool,
}

/// Outbox rows of the commit, and what the caller has to do after it.
fn follow_up(batch: &mut Batch<'_>, enacted: Enacted, is_claim: bool) -> Committed {
    let mut committed = Committed {
        run: batch.run.state.clone(),
        events: vec![],
        enqueue: None,
        remove_job: None,
        retry_job: None,
    };
    match enacted.job {
        JobIntent::Keep => {}
        JobIntent::Enqueue(job_id) => {
            batch.run.state.job_id = Some(job_id);
            // A claim's entry is in the queue already, pushed by hand.
            if !is_claim {
                let job = batch.run.job(job_id);
                let at = batch.run.last_event_at;
                batch.writes.push(write::outbox(&job, at));
                committed.enqueue = Some(job);
            }
        }
        JobIntent::Remove => {
            committed.remove_job = batch.run.state.job_id;
            batch.writes.push(write::outbox_cleared(&batch.run));
        }
    }
    if enacted.retried {
        committed.retry_job = batch.run.state.job_id.map(|job_id| batch.run.job(job_id));
    }
    committed
}

/// A live run is executed for its recorded queue entry only.
fn duplicate(run: &RunState, job_id: JobId) -> Option<CommandError> {
    let recorded = run.job_id.filter(|recorded| *recorded != job_id)?;
    if !run.status.needs_job() {
        return None;
    }
    tracing::info!(run.id = %run.id, job.id = %job_id, job.recorded = %recorded, "duplicate queue entry");
    match &run.lease {
        Some(lease) if lease.alive => Some(Rejection::Held(lease.owner.clone()).into()),
        _ => Some(CommandError::DuplicateJob),
    }
}

/// A sweep decides on what it read a moment ago; the deadline may have moved since.
fn not_yet(run: &RunRow, expiry: Expiry, context: &Context<'_>) -> Option<Rejection> {
    let to = RunStatus::Timeout;
    let early = Rejection::Illegal {
        from: run.state.status,
        to,
    };
    let working = matches!(run.state.status, RunStatus::Planning | RunStatus::Executing);
    match expiry {
        Expiry::RunDeadline if !run.state.status.is_final() => {
            let passed = run
                .times
                .deadline_at
                .is_some_and(|deadline| deadline <= context.now);
            (!working || !passed).then_some(early)
        }
        Expiry::WaitingForUser if !run.state.status.is_final() => {
            (run.state.status != RunStatus::WaitingUser).then_some(early)
        }
        _ => None,
    }
}

/// Ends the transaction without a change.
pub(crate) async fn refuse<T>(tx: Tx, refusal: CommandError) -> Result<T, CommandError> {
    tx.roll_back().await?;
    Err(refusal)
}

/// The answer of a create, stored under its key.
fn answer(run: &RunState) -> Value {
    let message = match run.status {
        RunStatus::Created => "Agent run created",
        _ => "Agent run created and queued for processing",
    };
    json!({"run_id": run.id, "status": run.status, "message": message, "plan": null})
}

async fn replay(tx: &mut Tx, user: &UserId, key: &IdempotencyKey) -> Result<Value, CommandError> {
    let rows = tx
        .read(Statement::new(READ_KEY, params![user.0.clone(), key.key.clone()]))
        .await?;
    let row = rows
        .first()
        .ok_or_else(|| StoreError::row("idempotency key vanished"))?;
    let hash: String = row.try_get(0).map_err(StoreError::from)?;
    if hash != key.request_hash {
        return Err(CommandError::IdempotencyConflict);
    }
    Ok(row.try_get(1).map_err(StoreError::from)?)
}
