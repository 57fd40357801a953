//! Runs for the tests of decisions.

use crate::ids::{JobId, RunId};
use crate::run::{Origin, RunState};
use crate::status::RunStatus;
use uuid::Uuid;

/// A run of ours in this status, held by nobody.
pub(super) fn run(status: RunStatus) -> RunState {
    RunState {
        id: RunId(Uuid::nil()),
        origin: Origin::AgentApi,
        user_id: Some("u".into()),
        status,
        current_phase: 0,
        total_phases: 0,
        last_seq: 2,
        epoch: 0,
        lease: None,
        job_id: None,
        priority: 0,
        retry_count: 0,
        max_retries: 3,
        crash_count: 0,
        cancel_requested: false,
        unknown_step: None,
        interrupts: vec![],
        last_error: None,
    }
}

pub(super) fn job() -> JobId {
    JobId(Uuid::from_u128(7))
}
