//! Jobs that are committed and perhaps not in Redis yet.
//!
//! A row is written with the command that enqueues the job and goes when a push was acknowledged. Pushing is
//! idempotent by `job_id`, so the fast path after the commit and the relay may both do it.

use crate::db::Db;
use crate::db::tx::{Statement, params, query};
use crate::store::StoreError;
use domain::ids::JobId;
use domain::job::Job;
use serde_json::Value;
use std::time::Duration;
use uuid::Uuid;

const SENT: &str = "DELETE FROM agent_outbox WHERE job_id = ANY($1)";

const DUE: &str = "SELECT job FROM agent_outbox
    WHERE created_at <= now() - $1::bigint * interval '1 millisecond' ORDER BY created_at LIMIT $2";

const BACKLOG: &str =
    "SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)) * 1000, 0)::bigint
    FROM agent_outbox";
const STUCK: &str = "SELECT job_id FROM agent_outbox
    WHERE created_at <= now() - $1::bigint * interval '1 millisecond' ORDER BY created_at LIMIT $2";

/// Jobs that are committed and not known to be in Redis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    pub rows: u64,
    /// Age of the oldest, 0 when there is none.
    pub oldest_age_ms: u64,
}

/// The relay's side of the outbox.
#[derive(Debug, Clone)]
pub struct Outbox {
    db: Db,
}

impl Outbox {
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    /// These jobs are in Redis; unknown ids are fine.
    pub async fn sent(&self, jobs: &[JobId]) -> Result<(), StoreError> {
        if jobs.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = jobs.iter().map(|job| job.0).collect();
        query(&self.db, Statement::new(SENT, params![ids]))
            .await
            .map(drop)
    }

    /// Jobs that wait for longer than `older_than` (so that the fast path goes first), oldest first.
    pub async fn due(&self, older_than: Duration, limit: u32) -> Result<Vec<Job>, StoreError> {
        let params = params![older_than.as_millis() as i64, i64::from(limit)];
        let rows = query(&self.db, Statement::new(DUE, params)).await?;
        let job = |row: &tokio_postgres::Row| {
            let value: Value = row.try_get(0)?;
            serde_json::from_value(value).map_err(|fault| StoreError::row(format!("outbox job: {fault}")))
        };
        rows.iter().map(job).collect()
    }

    /// How many rows wait, and for how long.
    pub async fn backlog(&self) -> Result<Backlog, StoreError> {
        let rows = query(&self.db, Statement::new(BACKLOG, vec![])).await?;
        let row = rows
            .first()
            .ok_or_else(|| StoreError::row("no count of the outbox"))?;
        let (count, age_ms): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        Ok(Backlog {
            rows: u64::try_from(count).unwrap_or(0),
            oldest_age_ms: u64::try_from(age_ms).unwrap_or(0),
        })
    }

    /// Jobs whose rows are older than this, oldest first.
    pub async fn stuck(&self, older_than: Duration, limit: u32) -> Result<Vec<JobId>, StoreError> {
        let params = params![older_than.as_millis() as i64, i64::from(limit)];
        let rows = query(&self.db, Statement::new(STUCK, params)).await?;
        rows.iter().map(|row| Ok(JobId(row.try_get(0)?))).collect()
    }
}
