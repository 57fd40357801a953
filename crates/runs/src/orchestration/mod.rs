//! Commands to runs: load under the row's lock, decide, commit. Each call is one transaction.
//!
//! What must follow a commit (push a job, publish events, take a job out of Redis) is in [`Committed`]; when
//! it fails, outbox relay and reconciler repeat it, so a caller never undoes a commit.

mod budget;
mod create;
mod expiry;
mod follow_up;
mod types;

pub use crate::authority::create::{NewRun, RunRules};
pub use create::RetryEdits;
pub use types::{Claimed, CommandError, Committed, Created, IdempotencyKey, RunLimits};

use crate::authority::batch::{Batch, Context};
use crate::authority::load::{Locked, lock, lock_and_read};
use crate::authority::row::RunRow;
use crate::db::Db;
use crate::db::tx::Tx;
use crate::figures;
use crate::restore;
use domain::breakage::{self, Breakage};
use domain::budget::Budget;
use domain::change::Change;
use domain::clock::{Clock, Ids};
use domain::command::{Command, Release};
use domain::decide::decide;
use domain::event::NewEvent;
use domain::ids::{RunId, UserId, WorkerId};
use domain::job::Job;
use domain::redact::Redactor;
use domain::run::Origin;
use follow_up::{duplicate, enact, follow_up};
use jiff::SignedDuration;
use std::sync::Arc;
use std::time::Duration;

/// The one way to change a run.
#[derive(Debug, Clone)]
pub struct Orchestration {
    db: Db,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    limits: RunLimits,
    opening: Option<NewEvent>,
    redactor: Arc<Redactor>,
    /// New runs go on when their user has no credits.
    exempt: bool,
    /// Of new runs.
    budget: Budget,
    /// Of the runs it makes.
    mcp_servers: Option<Vec<String>>,
}

impl Orchestration {
    pub fn new(db: Db, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self {
            db,
            clock,
            ids,
            limits: RunLimits::default(),
            opening: None,
            redactor: Arc::default(),
            exempt: false,
            budget: Budget::default(),
            mcp_servers: None,
        }
    }

    #[must_use]
    pub fn with_limits(self, limits: RunLimits) -> Self {
        Self { limits, ..self }
    }

    /// What must not be stored; without it the policy applies without known secrets.
    #[must_use]
    pub fn with_redactor(self, redactor: Arc<Redactor>) -> Self {
        Self { redactor, ..self }
    }

    /// Sees and changes this user's runs only, whatever is asked of it.
    #[must_use]
    pub fn of_user(&self, user: &UserId) -> Self {
        Self {
            db: self.db.of_user(user),
            ..self.clone()
        }
    }

    /// The runs it makes go on also when their user has no credits left.
    #[must_use]
    pub fn exempt_from_credits(&self, exempt: bool) -> Self {
        Self {
            exempt,
            ..self.clone()
        }
    }

    /// The runs it makes have this budget.
    #[must_use]
    pub fn with_budget(&self, budget: Budget) -> Self {
        Self {
            budget,
            ..self.clone()
        }
    }

    /// The runs it makes may use these MCP servers; without, those of their worker's setting.
    #[must_use]
    pub fn with_mcp_servers(&self, mcp_servers: Option<Vec<String>>) -> Self {
        Self {
            mcp_servers,
            ..self.clone()
        }
    }

    /// What the first claim of a run says in its log.
    #[must_use]
    pub fn with_opening(self, line: NewEvent) -> Self {
        Self {
            opening: Some(line),
            ..self
        }
    }

    fn context(&self) -> Context<'_> {
        Context {
            now: self.clock.now(),
            ids: &*self.ids,
            redactor: &self.redactor,
            credits_enforced: self.limits.credits_enforced,
            run_timeout: SignedDuration::try_from(self.limits.run_timeout).unwrap_or(SignedDuration::MAX),
        }
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
        let enqueues = matches!(
            command,
            Command::Start { .. }
                | Command::Resume { .. }
                | Command::SettleEffect { .. }
                | Command::Decide { .. }
        );
        if enqueues && !traceparent.is_empty() {
            traceparent.clone_into(&mut locked.run.traceparent);
        }
        if locked.run.state.origin == Origin::Runtime && command == Command::Stop {
            return crate::runtime_runs::stop(locked, self.context()).await;
        }
        self.decide_and_commit(locked, command, Duration::ZERO).await
    }

    /// A worker takes the run of this job and holds it for `lease`. What is stored of the run comes with it: it cannot
    /// change while the claim has its lock, and asking again would cost a transaction.
    pub async fn claim(
        &self,
        run_id: RunId,
        worker: &WorkerId,
        job: &Job,
        lease: Duration,
    ) -> Result<Claimed, CommandError> {
        let locked = lock_and_read(&self.db, run_id, restore::rest_of(run_id, self.clock.now())).await?;
        let (locked, rest) = locked.ok_or(CommandError::NotFound)?;
        if let Some(refusal) = duplicate(&locked.run.state, job.job_id) {
            return refuse(locked.tx, refusal).await;
        }
        let command = Command::Claim {
            worker: worker.clone(),
            job_id: job.job_id,
        };
        let (committed, run) = self.commit_decision(None, locked, command, lease).await?;
        Ok(Claimed {
            epoch: committed.run.epoch,
            committed,
            snapshot: restore::snapshot(run, &rest)?,
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
        let given_back = state.lease.is_none() && !state.status.is_final();
        if (state.epoch != epoch || given_back) && !breakage::is(Breakage::NoFencing) {
            return refuse(locked.tx, CommandError::Fenced).await;
        }
        self.decide_and_commit_as(Some(epoch), locked, Command::Progress(changes), Duration::ZERO)
            .await
    }

    /// A worker lets go. Of a run that has ended nothing is written; only its job is to be removed.
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
        let state = &locked.run.state;
        if state.status.is_final() {
            let nothing = Committed {
                run: state.clone(),
                events: vec![],
                enqueue: None,
                remove_job: state.job_id,
                retry_job: None,
            };
            locked.tx.roll_back().await?;
            return Ok(nothing);
        }
        // A run that was paused meanwhile needs no other attempt: resuming it makes a new job.
        let release = if state.status.needs_job() {
            release
        } else {
            Release::Done
        };
        self.decide_and_commit(locked, Command::Release(release), Duration::ZERO)
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
        self.decide_and_commit_as(None, locked, command, lease).await
    }

    /// `writer` is the epoch of the claim that writes.
    async fn decide_and_commit_as(
        &self,
        writer: Option<i64>,
        locked: Locked,
        command: Command,
        lease: Duration,
    ) -> Result<Committed, CommandError> {
        let done = self.commit_decision(writer, locked, command, lease).await?;
        Ok(done.0)
    }

    /// Besides, the run's row as it was written.
    async fn commit_decision(
        &self,
        writer: Option<i64>,
        locked: Locked,
        command: Command,
        lease: Duration,
    ) -> Result<(Committed, RunRow), CommandError> {
        let Locked {
            tx,
            run,
            open_steps,
            projection,
        } = locked;
        let of_worker = matches!(command, Command::Release(_) | Command::Progress(_));
        let is_claim = matches!(command, Command::Claim { .. });
        let decision = match decide(&run.state, command) {
            Ok(decision) => decision,
            Err(rejection) => return refuse(tx, rejection.into()).await,
        };
        let mut batch = Batch::new(self.context(), run, open_steps);
        batch.writer_epoch = writer;
        let job = enact(&mut batch, decision, lease);
        // A worker that lets go has not died, also when it leaves its run to a person.
        if of_worker && batch.run.state.lease.is_none() {
            batch.run.state.crash_count = 0;
        }
        if is_claim {
            self.open(&mut batch);
        }
        let follow_up = follow_up(&mut batch, job, is_claim);
        let (statements, run, events) = batch.finish(projection);
        tx.commit(statements)
            .await
            .inspect_err(|_| figures::commit_failed())?;
        let committed = Committed {
            run: run.state.clone(),
            events,
            ..follow_up
        };
        Ok((committed, run))
    }

    /// Nothing has been planned and no attempt was lost: the opening line comes now.
    fn open(&self, batch: &mut Batch<'_>) {
        let is_new = batch.run.counters.plan_version == 0 && batch.run.state.retry_count == 0;
        if let Some(line) = self.opening.as_ref().filter(|_| is_new) {
            batch.push(line.clone());
        }
    }
}

/// Ends the transaction without a change.
pub(crate) async fn refuse<T>(tx: Tx, refusal: CommandError) -> Result<T, CommandError> {
    tx.roll_back().await?;
    Err(refusal)
}
