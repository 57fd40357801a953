//! What the state machine needs to know of a run, and the words for steps.

use crate::ids::{JobId, RunId, StepId, UserId, WorkerId};
use crate::interrupt::OpenInterrupt;
use crate::status::RunStatus;
use serde::{Deserialize, Serialize};

/// Status of a step (`agent_steps.status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    Pending,
    Running,
    Completed,
    Failed,
    Skipped,
    Cancelled,
}

impl StepStatus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [
            Self::Pending,
            Self::Running,
            Self::Completed,
            Self::Failed,
            Self::Skipped,
            Self::Cancelled,
        ]
        .into_iter()
        .find(|status| status.as_str() == name)
    }
}

/// Where a run was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// By `POST /agent/execute`; driven by our workers.
    AgentApi,
    /// By `POST /internal/v1/runs`; driven from outside, never queued.
    Runtime,
}

impl Origin {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AgentApi => "agent_api",
            Self::Runtime => "runtime",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        [Self::AgentApi, Self::Runtime]
            .into_iter()
            .find(|origin| origin.as_str() == name)
    }
}

/// A worker's hold on a run, as the database sees it at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub owner: WorkerId,
    /// The lease end is in the future by the database's clock.
    pub alive: bool,
}

/// The run row as [`crate::decide()`] reads it, under the row's lock.
#[derive(Debug, Clone, PartialEq)]
pub struct RunState {
    pub id: RunId,
    pub origin: Origin,
    pub user_id: Option<UserId>,
    pub status: RunStatus,
    pub current_phase: u32,
    /// 0 before there is a plan.
    pub total_phases: u32,
    pub last_seq: i64,
    /// Raised at each claim; a write with an older one is refused.
    pub epoch: i64,
    pub lease: Option<Lease>,
    /// The queue entry this run has or last had.
    pub job_id: Option<JobId>,
    pub priority: u8,
    pub retry_count: u32,
    /// Attempts beyond the first that may be used up.
    pub max_retries: u32,
    /// Claims in a row that ended without a settled step or a counted failure: lost workers.
    pub crash_count: u32,
    pub cancel_requested: bool,
    /// The tool call whose outcome its user has to tell.
    pub unknown_step: Option<StepId>,
    /// What it asks a person at present.
    pub interrupts: Vec<OpenInterrupt>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// Progress in percent: current of total phases, at most 99 before the end, 0 without a plan.
pub fn percentage(current_phase: u32, total_phases: u32, completed: bool) -> f64 {
    if completed {
        return 100.0;
    }
    if total_phases == 0 {
        return 0.0;
    }
    (f64::from(current_phase) / f64::from(total_phases) * 100.0).min(99.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentage_reaches_100_only_when_completed() {
        assert!((percentage(2, 4, false) - 50.0).abs() < f64::EPSILON);
        assert!((percentage(4, 4, false) - 99.0).abs() < f64::EPSILON);
        assert!((percentage(4, 4, true) - 100.0).abs() < f64::EPSILON);
        assert!(percentage(0, 0, false).abs() < f64::EPSILON);
    }
}
