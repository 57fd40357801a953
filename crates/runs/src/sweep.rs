//! What the timers ask: runs past a limit, and runs whose job must be in Redis.

use crate::authority::row::{RunRow, column, run_columns};
use crate::db::Db;
use crate::db::tx::{Statement, params, query};
use crate::store::StoreError;
use domain::clock::Clock;
use domain::command::Expiry;
use domain::ids::{JobId, RunId, StepId};
use domain::job::Job;
use domain::run::{Origin, StepStatus};
use domain::status::RunStatus;
use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const OVERDUE: &str = "(SELECT id, status FROM agent_runs
        WHERE status IN ('queued', 'planning', 'executing') AND status <> 'queued' AND origin = 'agent_api'
          AND deadline_at <= $1 LIMIT $3)
    UNION ALL
    (SELECT id, status FROM agent_runs WHERE status = 'waiting_user' AND paused_at <= $2 LIMIT $3)
    LIMIT $3";

const OVERDUE_APPROVALS: &str =
    "SELECT DISTINCT i.run_id FROM agent_interrupts i JOIN agent_runs r ON r.id = i.run_id
    WHERE i.status = 'open' AND i.expires_at <= $1 AND r.status = 'waiting_user' LIMIT $2";

const LIVE: &str = concat!(
    "SELECT ",
    run_columns!(),
    " FROM agent_runs
    WHERE status IN ('queued', 'planning', 'executing') AND origin = 'agent_api' AND id > $1
    ORDER BY id LIMIT $2"
);

const THESE: &str = concat!("SELECT ", run_columns!(), " FROM agent_runs WHERE id = ANY($1)");

const STEPS: &str = "SELECT id, status FROM agent_steps WHERE id = ANY($1)";

/// A run past one of its limits; give both to [`crate::Orchestration::expire`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overdue {
    pub run_id: RunId,
    pub expiry: Expiry,
}

/// A run as the reconciler sees it.
#[derive(Debug, Clone)]
pub struct LiveRun {
    pub run_id: RunId,
    /// The one entry it must have in the Redis lists. Nothing when it needs none; of a live run nothing is recorded
    /// only when its row was made by hand.
    pub job: Option<Job>,
    pub status: RunStatus,
    /// A worker holds it, by the database's clock.
    pub lease_alive: bool,
    /// Set while it waits for another attempt.
    pub next_retry_at: Option<Timestamp>,
}

impl LiveRun {
    fn read(row: &tokio_postgres::Row) -> Result<Self, StoreError> {
        let run = RunRow::read(row)?;
        let needs_job = run.state.status.needs_job() && run.state.origin == Origin::AgentApi;
        Ok(Self {
            run_id: run.state.id,
            job: run
                .state
                .job_id
                .filter(|_| needs_job)
                .map(|job_id: JobId| run.job(job_id)),
            status: run.state.status,
            lease_alive: run.state.lease.as_ref().is_some_and(|lease| lease.alive),
            next_retry_at: run.times.next_retry_at,
        })
    }
}

/// Queries of the sweeps; they change nothing.
#[derive(Debug, Clone)]
pub struct Sweep {
    db: Db,
    clock: Arc<dyn Clock>,
}

impl Sweep {
    pub fn new(db: Db, clock: Arc<dyn Clock>) -> Self {
        Self { db, clock }
    }

    /// At most `limit` runs whose working time is over, or that waited for their user for `waiting_timeout`.
    pub async fn overdue(&self, limit: u32, waiting_timeout: Duration) -> Result<Vec<Overdue>, StoreError> {
        let now = self.clock.now();
        let patience = SignedDuration::try_from(waiting_timeout).unwrap_or(SignedDuration::MAX);
        let since = now
            .checked_sub(patience)
            .unwrap_or(Timestamp::MIN)
            .max(Timestamp::UNIX_EPOCH);
        let rows = query(
            &self.db,
            Statement::new(OVERDUE, params![now, since, i64::from(limit)]),
        )
        .await?;
        rows.iter()
            .map(|row| {
                let status: String = column(row, "status")?;
                let waiting = status == RunStatus::WaitingUser.as_str();
                let expiry = if waiting {
                    Expiry::WaitingForUser
                } else {
                    Expiry::RunDeadline
                };
                Ok(Overdue {
                    run_id: RunId(column(row, "id")?),
                    expiry,
                })
            })
            .collect()
    }

    /// At most `limit` runs that ask about something nobody decided in time; give them to
    /// [`crate::Orchestration::expire_interrupts`].
    pub async fn overdue_approvals(&self, limit: u32) -> Result<Vec<RunId>, StoreError> {
        let params = params![self.clock.now(), i64::from(limit)];
        let rows = query(&self.db, Statement::new(OVERDUE_APPROVALS, params)).await?;
        rows.iter().map(|row| Ok(RunId(column(row, "run_id")?))).collect()
    }

    /// The next page of live runs, by id; start with `None`, go on with the last id, end at an empty page.
    pub async fn live_page(&self, after: Option<RunId>, limit: u32) -> Result<Vec<LiveRun>, StoreError> {
        let after = after.map_or(uuid::Uuid::nil(), |run| run.0);
        let rows = query(&self.db, Statement::new(LIVE, params![after, i64::from(limit)])).await?;
        rows.iter().map(LiveRun::read).collect()
    }

    /// The status of these steps; unknown ones are left out.
    pub async fn steps(&self, ids: &[StepId]) -> Result<HashMap<StepId, StepStatus>, StoreError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<uuid::Uuid> = ids.iter().map(|step| step.0).collect();
        let rows = query(&self.db, Statement::new(STEPS, params![ids])).await?;
        rows.iter()
            .map(|row| {
                let status: String = column(row, "status")?;
                let status = StepStatus::parse(&status).ok_or_else(|| StoreError::row("unknown status"))?;
                Ok((StepId(column(row, "id")?), status))
            })
            .collect()
    }

    /// These runs as they stand now, whatever their status; unknown ones are left out.
    pub async fn runs(&self, ids: &[RunId]) -> Result<Vec<LiveRun>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<uuid::Uuid> = ids.iter().map(|run| run.0).collect();
        let rows = query(&self.db, Statement::new(THESE, params![ids])).await?;
        rows.iter().map(LiveRun::read).collect()
    }
}
