//! Renewing the lease columns of held runs: the second lock behind the lease in Redis.
//!
//! Besides the authority and retention's mark the only code that writes to `agent_runs`, and only to `lease_expires_at`, by the
//! database's clock. The answer carries the cancel and pause flags, so a lost signal costs one renewal at most.

use crate::authority::row::column;
use crate::db::Db;
use crate::db::tx::{Statement, params, query};
use crate::store::StoreError;
use domain::ids::{RunId, WorkerId};
use domain::status::RunStatus;
use std::time::Duration;
use uuid::Uuid;

const RENEW: &str = "WITH asked AS (SELECT * FROM unnest($1::uuid[], $2::bigint[]) AS a(id, epoch)),
    renewed AS (
        UPDATE agent_runs r SET lease_expires_at = clock_timestamp() + $4::bigint * interval '1 millisecond'
          FROM asked a WHERE r.id = a.id AND r.fencing_token = a.epoch AND r.lease_owner = $3)
    SELECT a.id, r.status, coalesce(r.fencing_token = a.epoch, false) AS same_epoch,
           r.lease_owner IS NOT DISTINCT FROM $3 AS owned
      FROM asked a LEFT JOIN agent_runs r ON r.id = a.id";

/// Where a held run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewalStatus {
    Held {
        /// The run has ended (stopped, timed out): end the running tool.
        cancelled: bool,
        /// Begin no further step.
        paused: bool,
    },
    /// Another claim has taken over, or the run was given back: write nothing more.
    Lost,
}

/// The answer for one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewal {
    pub run_id: RunId,
    pub status: RenewalStatus,
}

/// The workers' side of the lease columns.
#[derive(Debug, Clone)]
pub struct Leases {
    db: Db,
}

impl Leases {
    pub fn new(db: Db) -> Self {
        Self { db }
    }

    /// Extends the leases of these runs (with the epochs of their claims) to `lease` from now.
    pub async fn renew(
        &self,
        worker: &WorkerId,
        runs: &[(RunId, i64)],
        lease: Duration,
    ) -> Result<Vec<Renewal>, StoreError> {
        if runs.is_empty() {
            return Ok(vec![]);
        }
        let ids: Vec<Uuid> = runs.iter().map(|(run, _)| run.0).collect();
        let epochs: Vec<i64> = runs.iter().map(|(_, epoch)| *epoch).collect();
        let params = params![ids, epochs, worker.0.clone(), lease.as_millis() as i64];
        let rows = query(&self.db, Statement::new(RENEW, params)).await?;
        rows.iter()
            .map(|row| {
                let status: Option<String> = column(row, "status")?;
                let status = status.as_deref().and_then(RunStatus::parse);
                let flags = (column(row, "same_epoch")?, column(row, "owned")?);
                Ok(Renewal {
                    run_id: RunId(column(row, "id")?),
                    status: judge(status, flags),
                })
            })
            .collect()
    }
}

fn judge(status: Option<RunStatus>, (same_epoch, owned): (bool, bool)) -> RenewalStatus {
    match status {
        Some(status) if same_epoch && status.is_final() => RenewalStatus::Held {
            cancelled: true,
            paused: false,
        },
        // Asking its user, the run has let go of its worker by itself.
        Some(RunStatus::WaitingUser) if same_epoch => RenewalStatus::Held {
            cancelled: false,
            paused: true,
        },
        Some(status) if same_epoch && owned => RenewalStatus::Held {
            cancelled: false,
            paused: status == RunStatus::Paused,
        },
        _ => RenewalStatus::Lost,
    }
}
