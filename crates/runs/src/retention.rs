//! Which runs' files are past their time, and what became of them.
//!
//! Invariants:
//! - Files are removed only after their run was marked as expired, in one transaction that holds the run's row: a retry that
//!   copies them either comes first and keeps them, or finds the mark.
//! - Only a run that has ended is marked; of its row nothing is written but the mark.
//! - A removal that was cut off is found again; of several sweeps one has a run at a time.

use crate::authority::row::column;
use crate::db::Db;
use crate::db::tx::{Statement, Tx, params, query, write};
use crate::store::StoreError;
use domain::ids::{RunId, UserId};
use domain::status::RunStatus;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;
use uuid::Uuid;

/// How long a sweep has a run for itself.
const HOLD: SignedDuration = SignedDuration::from_mins(10);
/// When a run whose removal failed is tried again.
const AGAIN: SignedDuration = SignedDuration::from_mins(1);

macro_rules! ended_columns {
    () => {
        "r.id, r.user_id, r.status, r.completed_at, coalesce(w.files, 0) AS files, coalesce(w.bytes, 0) AS bytes"
    };
}

/// A live run that is still to get this one's files.
macro_rules! needed {
    () => {
        "EXISTS (SELECT FROM agent_runs n WHERE n.retry_of = r.id AND n.metadata @> '{\"copy_workspace\": true}'
              AND NOT n.metadata ? 'workspace_copied' AND n.completed_at IS NULL)"
    };
}

const UNMEASURED: &str = concat!(
    "SELECT ",
    ended_columns!(),
    " FROM agent_runs r LEFT JOIN agent_workspaces w ON w.run_id = r.id
    WHERE r.completed_at < $1 AND r.origin = 'agent_api' AND w.run_id IS NULL
    ORDER BY r.completed_at, r.id LIMIT $2"
);

const MEASURED: &str =
    "INSERT INTO agent_workspaces (run_id, files, bytes, measured_at) VALUES ($1, $2, $3, $4)
    ON CONFLICT (run_id) DO NOTHING";

const WITH_SCRATCH: &str = concat!(
    "SELECT ",
    ended_columns!(),
    " FROM agent_workspaces w JOIN agent_runs r ON r.id = w.run_id
    WHERE w.scratch_cleared_at IS NULL AND r.completed_at < $1 AND (w.held_until IS NULL OR w.held_until < $2)
    ORDER BY r.completed_at, r.id LIMIT $3"
);

const PAST_AGE: &str = concat!(
    "SELECT ",
    ended_columns!(),
    " FROM agent_workspaces w JOIN agent_runs r ON r.id = w.run_id
    WHERE w.expired_at IS NULL AND w.files > 0
      AND r.completed_at < CASE r.status WHEN 'completed' THEN $1::timestamptz WHEN 'cancelled' THEN $3::timestamptz
                                         ELSE $2::timestamptz END
      AND NOT ",
    needed!(),
    " ORDER BY r.completed_at, r.id LIMIT $4"
);

/// Newest first the sizes are added up; what comes after the sum has reached the limit is too much.
const PAST_SIZE: &str = concat!(
    "SELECT ",
    ended_columns!(),
    " FROM (SELECT w.*,
               sum(w.bytes) OVER (PARTITION BY r.user_id ORDER BY r.completed_at DESC, r.id DESC) AS of_user,
               sum(w.bytes) OVER (ORDER BY r.completed_at DESC, r.id DESC) AS of_all
          FROM agent_workspaces w JOIN agent_runs r ON r.id = w.run_id
         WHERE w.expired_at IS NULL AND w.files > 0) w
    JOIN agent_runs r ON r.id = w.run_id
    WHERE (w.of_user > $1::bigint OR w.of_all > $2::bigint) AND NOT ",
    needed!(),
    " ORDER BY r.completed_at, r.id LIMIT $3"
);

const INTERRUPTED: &str = concat!(
    "SELECT ",
    ended_columns!(),
    " FROM agent_workspaces w JOIN agent_runs r ON r.id = w.run_id
    WHERE w.expired_at IS NOT NULL AND w.cleared_at IS NULL AND w.held_until < $1
    ORDER BY r.completed_at, r.id LIMIT $2"
);

const LOCK: &str = "SELECT id FROM agent_runs WHERE id = $1 FOR UPDATE";
/// Its own statement after [`LOCK`], so that it sees what the lock had to wait for.
const MAY_EXPIRE: &str = concat!(
    "SELECT w.run_id FROM agent_workspaces w JOIN agent_runs r ON r.id = w.run_id
    WHERE r.id = $1 AND r.completed_at IS NOT NULL AND w.expired_at IS NULL
      AND (w.held_until IS NULL OR w.held_until < $2) AND NOT ",
    needed!(),
    " FOR UPDATE OF w"
);
const EXPIRE: &str = "UPDATE agent_workspaces SET expired_at = $2, held_until = $3 WHERE run_id = $1";
const MARK: &str =
    "UPDATE agent_runs SET metadata = metadata || '{\"workspace\": \"expired\"}' WHERE id = $1";

const HOLD_RUN: &str = "UPDATE agent_workspaces SET held_until = $3
    WHERE run_id = $1 AND (held_until IS NULL OR held_until < $2) RETURNING run_id";
const LET_GO: &str = "UPDATE agent_workspaces SET held_until = $2 WHERE run_id = $1";
const CLEARED: &str =
    "UPDATE agent_workspaces SET cleared_at = $2, scratch_cleared_at = coalesce(scratch_cleared_at, $2),
        held_until = NULL WHERE run_id = $1";
const SCRATCH_CLEARED: &str =
    "UPDATE agent_workspaces SET scratch_cleared_at = $2, held_until = NULL WHERE run_id = $1";
const KNOWN: &str = "SELECT id FROM agent_runs WHERE id = ANY($1)";

/// A run that has ended, and what it left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedRun {
    pub run_id: RunId,
    pub user_id: UserId,
    pub status: RunStatus,
    pub ended_at: Timestamp,
    pub files: u64,
    pub bytes: u64,
}

/// Ends before these moments are past their time; nothing means never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cutoffs {
    pub completed: Option<Timestamp>,
    /// Also of runs that ran out of time.
    pub failed: Option<Timestamp>,
    pub cancelled: Option<Timestamp>,
}

impl Cutoffs {
    /// One for all.
    pub const fn all(before: Timestamp) -> Self {
        Self {
            completed: Some(before),
            failed: Some(before),
            cancelled: Some(before),
        }
    }

    fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// Bytes that ended runs may keep; nothing means any number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    pub per_user: Option<u64>,
    pub altogether: Option<u64>,
}

fn ended(row: &Row) -> Result<EndedRun, StoreError> {
    let status: &str = column(row, "status")?;
    let (files, bytes): (i64, i64) = (column(row, "files")?, column(row, "bytes")?);
    Ok(EndedRun {
        run_id: RunId(column(row, "id")?),
        user_id: UserId(column::<Option<String>>(row, "user_id")?.unwrap_or_default()),
        status: RunStatus::parse(status).ok_or_else(|| StoreError::row("unknown status"))?,
        ended_at: column(row, "completed_at")?,
        files: files.max(0) as u64,
        bytes: bytes.max(0) as u64,
    })
}

fn later(now: Timestamp, by: SignedDuration) -> Timestamp {
    now.checked_add(by).unwrap_or(now)
}

/// The files' side of ended runs. Acts for the system.
#[derive(Debug, Clone)]
pub struct Retention {
    db: Db,
}

impl Retention {
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    async fn runs(&self, statement: Statement) -> Result<Vec<EndedRun>, StoreError> {
        query(&self.db, statement).await?.iter().map(ended).collect()
    }

    /// Runs that ended before this and whose files nobody has counted.
    pub async fn unmeasured(&self, before: Timestamp, limit: u32) -> Result<Vec<EndedRun>, StoreError> {
        self.runs(Statement::new(UNMEASURED, params![before, i64::from(limit)]))
            .await
    }

    /// Notes how much a run has left.
    pub async fn measured(
        &self,
        run: RunId,
        (files, bytes): (u64, u64),
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let params = params![run.0, files as i64, bytes as i64, now];
        write(&self.db, vec![Statement::new(MEASURED, params)]).await
    }

    /// Counted runs that ended before this and whose scratch files are still there.
    pub async fn with_scratch(
        &self,
        before: Timestamp,
        now: Timestamp,
        limit: u32,
    ) -> Result<Vec<EndedRun>, StoreError> {
        self.runs(Statement::new(
            WITH_SCRATCH,
            params![before, now, i64::from(limit)],
        ))
        .await
    }

    /// Counted runs that are too old, oldest first. What a live retry is still to copy is not among them.
    pub async fn past_age(&self, cutoffs: Cutoffs, limit: u32) -> Result<Vec<EndedRun>, StoreError> {
        if cutoffs.is_empty() {
            return Ok(vec![]);
        }
        let params = params![
            cutoffs.completed,
            cutoffs.failed,
            cutoffs.cancelled,
            i64::from(limit)
        ];
        self.runs(Statement::new(PAST_AGE, params)).await
    }

    /// Counted runs whose files are too much beside newer ones, oldest first.
    pub async fn past_size(&self, caps: Caps, limit: u32) -> Result<Vec<EndedRun>, StoreError> {
        if caps == Caps::default() {
            return Ok(vec![]);
        }
        let bound = |cap: Option<u64>| cap.map(|cap| i64::try_from(cap).unwrap_or(i64::MAX));
        let params = params![bound(caps.per_user), bound(caps.altogether), i64::from(limit)];
        self.runs(Statement::new(PAST_SIZE, params)).await
    }

    /// Marked runs whose removal was cut off.
    pub async fn interrupted(&self, now: Timestamp, limit: u32) -> Result<Vec<EndedRun>, StoreError> {
        self.runs(Statement::new(INTERRUPTED, params![now, i64::from(limit)]))
            .await
    }

    /// Marks a run's files as expired and takes the run for this sweep; false when it must not or need not be. After it
    /// nobody reads them, and they may be removed.
    pub async fn expire(&self, run: RunId, now: Timestamp) -> Result<bool, StoreError> {
        let reads = vec![
            Statement::new(LOCK, params![run.0]),
            Statement::new(MAY_EXPIRE, params![run.0, now]),
        ];
        let (tx, rows) = Tx::begin(&self.db, reads).await?;
        if rows.get(1).is_none_or(Vec::is_empty) {
            tx.roll_back().await?;
            return Ok(false);
        }
        let writes = vec![
            Statement::new(EXPIRE, params![run.0, now, later(now, HOLD)]),
            Statement::new(MARK, params![run.0]),
        ];
        tx.commit(writes).await?;
        Ok(true)
    }

    /// Takes a run for this sweep; false when another one has it.
    pub async fn hold(&self, run: RunId, now: Timestamp) -> Result<bool, StoreError> {
        let params = params![run.0, now, later(now, HOLD)];
        Ok(!query(&self.db, Statement::new(HOLD_RUN, params))
            .await?
            .is_empty())
    }

    /// What was to be done failed; it is tried again a little later.
    pub async fn let_go(&self, run: RunId, now: Timestamp) -> Result<(), StoreError> {
        let params = params![run.0, later(now, AGAIN)];
        write(&self.db, vec![Statement::new(LET_GO, params)]).await
    }

    /// Everything of a marked run is removed.
    pub async fn cleared(&self, run: RunId, now: Timestamp) -> Result<(), StoreError> {
        write(&self.db, vec![Statement::new(CLEARED, params![run.0, now])]).await
    }

    /// A run's scratch files are removed.
    pub async fn scratch_cleared(&self, run: RunId, now: Timestamp) -> Result<(), StoreError> {
        write(
            &self.db,
            vec![Statement::new(SCRATCH_CLEARED, params![run.0, now])],
        )
        .await
    }

    /// Which of these runs there are.
    pub async fn known(&self, runs: &[RunId]) -> Result<Vec<RunId>, StoreError> {
        let ids: Vec<Uuid> = runs.iter().map(|run| run.0).collect();
        let rows = query(&self.db, Statement::new(KNOWN, params![ids])).await?;
        rows.iter().map(|row| Ok(RunId(column(row, "id")?))).collect()
    }
}
