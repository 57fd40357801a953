//! Metrics of tool Jobs; every label comes from a closed list.

use super::class::Failure;
use std::time::Duration;

/// The parts of a call, in their order.
pub const PHASES: [&str; 6] = ["queue", "admission", "schedule", "start", "run", "upload"];

/// How long a part of a call took: `queue` for a place, `admission` of the Job, `schedule`, `start`, `run`, `upload`.
pub(super) fn phase(name: &'static str, lasted: Duration) {
    metrics::histogram!("agent_sandbox_phase_seconds", "phase" => name).record(lasted.as_secs_f64());
}

/// A call that failed by what the cluster did.
pub(super) fn failed(failure: &Failure) {
    metrics::counter!("agent_sandbox_failures_total", "class" => failure.class.as_str()).increment(1);
}

/// Calls of this worker that wait for a place.
pub(super) fn waiting(count: usize) {
    metrics::gauge!("agent_sandbox_waiting").set(count as f64);
}

/// A Job of nobody's was deleted.
pub(super) fn reaped() {
    metrics::counter!("agent_sandbox_reaped_total").increment(1);
}
