//! A worker as stored and as shown.

use super::status::WorkerStatus;
use crate::authority::row::column;
use crate::store::StoreError;
use domain::clock::wire_time;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::Row;

/// Whose worker: exactly one of the two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerOwner {
    User(i64),
    GuestScope(String),
}

impl WorkerOwner {
    pub(super) fn user_id(&self) -> Option<i64> {
        match self {
            Self::User(id) => Some(*id),
            Self::GuestScope(_) => None,
        }
    }

    pub(super) fn guest_scope(&self) -> Option<String> {
        match self {
            Self::User(_) => None,
            Self::GuestScope(scope) => Some(scope.clone()),
        }
    }
}

/// A worker's row.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    pub worker_id: String,
    pub owner: WorkerOwner,
    pub workspace_ref: Option<String>,
    pub codex_home_ref: Option<String>,
    pub adapter: String,
    pub status: WorkerStatus,
    pub latest_seq: i64,
    pub metadata: Value,
    pub started_at: Timestamp,
    pub stopped_at: Option<Timestamp>,
    pub last_heartbeat_at: Option<Timestamp>,
    pub updated_at: Timestamp,
}

impl Worker {
    pub(super) fn read(row: &Row) -> Result<Self, StoreError> {
        let status: &str = column(row, "status")?;
        let owner = match (column(row, "owner_user_id")?, column(row, "owner_guest_scope")?) {
            (Some(id), _) => WorkerOwner::User(id),
            (None, Some(scope)) => WorkerOwner::GuestScope(scope),
            (None, None) => return Err(StoreError::row("worker without owner")),
        };
        Ok(Self {
            worker_id: column(row, "worker_id")?,
            owner,
            workspace_ref: column(row, "workspace_ref")?,
            codex_home_ref: column(row, "codex_home_ref")?,
            adapter: column(row, "adapter")?,
            status: WorkerStatus::parse(status).ok_or_else(|| StoreError::row("unknown worker status"))?,
            latest_seq: column(row, "latest_seq")?,
            metadata: column(row, "metadata")?,
            started_at: column(row, "started_at")?,
            stopped_at: column(row, "stopped_at")?,
            last_heartbeat_at: column(row, "last_heartbeat_at")?,
            updated_at: column(row, "updated_at")?,
        })
    }

    /// The `worker` object of the replies, with how alive it is at `now`.
    pub fn to_json(&self, now: Timestamp, stale_after_ms: i64) -> Value {
        json!({
            "worker": {
                "worker_id": self.worker_id,
                "owner": {"user_id": self.owner.user_id(), "guest_scope": self.owner.guest_scope()},
                "workspace_ref": self.workspace_ref,
                "codex_home_ref": self.codex_home_ref,
                "adapter": self.adapter,
                "status": self.status.as_str(),
                "latest_seq": self.latest_seq,
                "metadata": self.metadata,
                "started_at": wire_time(self.started_at),
                "stopped_at": self.stopped_at.map(wire_time),
                "last_heartbeat_at": self.last_heartbeat_at.map(wire_time),
                "updated_at": wire_time(self.updated_at),
            },
            "liveness": self.liveness(now, stale_after_ms),
        })
    }

    fn liveness(&self, now: Timestamp, stale_after_ms: i64) -> Value {
        let age = self.last_heartbeat_at.map(|at| age_ms(at, now));
        let state = match (self.status, age) {
            (WorkerStatus::Stopped | WorkerStatus::Failed, _) => self.status.as_str(),
            (_, None) => "missing",
            (_, Some(age)) if age > stale_after_ms => "stale",
            _ => "fresh",
        };
        json!({"heartbeat_age_ms": age, "heartbeat_stale_after_ms": stale_after_ms, "heartbeat_state": state})
    }
}

/// Whole milliseconds; a clock behind the one that wrote the heartbeat sees it as new.
fn age_ms(at: Timestamp, now: Timestamp) -> i64 {
    now.as_millisecond().saturating_sub(at.as_millisecond()).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    fn worker(status: WorkerStatus, heartbeat: Option<Timestamp>) -> Worker {
        Worker {
            worker_id: "w".to_owned(),
            owner: WorkerOwner::User(7),
            workspace_ref: None,
            codex_home_ref: None,
            adapter: "in_memory".to_owned(),
            status,
            latest_seq: 1,
            metadata: json!({}),
            started_at: Timestamp::UNIX_EPOCH,
            stopped_at: None,
            last_heartbeat_at: heartbeat,
            updated_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_worker_is_fresh_to_the_millisecond_and_then_stale() {
        use WorkerStatus as W;
        let beat = Timestamp::UNIX_EPOCH;
        let state = |status, heartbeat, age| {
            let now = beat + SignedDuration::from_millis(age);
            let liveness = worker(status, heartbeat).liveness(now, 120_000);
            (
                liveness["heartbeat_state"].clone(),
                liveness["heartbeat_age_ms"].clone(),
            )
        };
        for (status, heartbeat, age, word, shown) in [
            (W::Running, Some(beat), 0, "fresh", json!(0)),
            (W::Running, Some(beat), 120_000, "fresh", json!(120_000)),
            (W::Stopping, Some(beat), 120_001, "stale", json!(120_001)),
            (W::Running, Some(beat), -5, "fresh", json!(0)),
            (W::Starting, None, 0, "missing", Value::Null),
            (W::Stopped, Some(beat), 500_000, "stopped", json!(500_000)),
            (W::Failed, None, 0, "failed", Value::Null),
        ] {
            assert_eq!(
                state(status, heartbeat, age),
                (json!(word), shown),
                "{status:?} {age}"
            );
        }
    }
}
