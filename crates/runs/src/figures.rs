//! Metrics of the authority. Label values come from closed lists: a type or reason that somebody made up is `other`, so
//! the number of series does not grow with what is written.
//!
//! Events and projections are counted where they are handed to their one commit; a commit that fails counts as a
//! failed write besides, and is rare.

use crate::authority::batch::LinkedEvent;
use serde_json::Value;

/// Event types with a series of their own.
const EVENT_TYPES: [&str; 12] = [
    "run.created",
    "run.started",
    "run.cancel_requested",
    "run.finished",
    "run.status_changed",
    "run.log",
    "run.delta",
    "run.executor_lost",
    "run.step.completed",
    "text.delta",
    "tool.call",
    "tool.result",
];
const REASON_CLASSES: [&str; 5] = [
    "completed",
    "execution_failed",
    "timeout",
    "cancel_requested",
    "executor_recovery_exhausted",
];
const PROJECTIONS: [&str; 2] = ["checkpoint", "run_summary"];
const OTHER: &str = "other";

/// What became of an event somebody wanted to append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendOutcome {
    Appended,
    /// The key was known.
    Replayed,
    /// The run had ended in just this way.
    NoOp,
    Invalid,
    Conflict,
    NotFound,
    Error,
}

impl AppendOutcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Appended => "appended",
            Self::Replayed => "replayed",
            Self::NoOp => "no_op",
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
            Self::NotFound => "not_found",
            Self::Error => "error",
        }
    }
}

/// Shows the families before their first event, so that a rate over them has a beginning.
pub fn register() {
    for event_type in EVENT_TYPES.into_iter().chain([OTHER]) {
        events(event_type, AppendOutcome::Appended, 0);
    }
    for (status, reason) in [
        ("succeeded", "completed"),
        ("failed", "execution_failed"),
        ("canceled", "cancel_requested"),
    ] {
        finished(status, reason, 0);
    }
    for projection in PROJECTIONS {
        written(projection, "ok", 0);
        written(projection, "error", 0);
        drifted(projection, 0);
    }
    for result in ["ok", "error"] {
        metrics::counter!("runtime_projection_replay_total", "result" => result).increment(0);
    }
}

/// An append that wrote nothing.
pub fn not_appended(event_type: &str, outcome: AppendOutcome) {
    events(known(event_type.trim(), &EVENT_TYPES), outcome, 1);
}

/// A run's events were read, or its projections made anew, from the first to the last.
pub fn replayed(ok: bool) {
    let result = if ok { "ok" } else { "error" };
    metrics::counter!("runtime_projection_replay_total", "result" => result).increment(1);
}

/// Events and projections of one commit; `drift`: an event was not the next one.
pub(crate) fn handed_to_commit(new: &[LinkedEvent], drift: bool) {
    for event in new {
        events(known(&event.event_type, &EVENT_TYPES), AppendOutcome::Appended, 1);
        if event.event_type == "run.finished" {
            let (status, reason) = ending(&event.payload);
            finished(status, reason, 1);
        }
    }
    for projection in PROJECTIONS {
        written(projection, "ok", 1);
        drifted(projection, u64::from(drift));
        // Projections are part of the commit, so they are never behind; readers of this metric shall see that.
        metrics::histogram!("runtime_projection_lag_events", "projection" => projection).record(0.0);
    }
}

/// The commit failed, and the projections with it.
pub(crate) fn commit_failed() {
    for projection in PROJECTIONS {
        written(projection, "error", 1);
    }
}

fn known(word: &str, list: &[&'static str]) -> &'static str {
    list.iter().find(|own| **own == word).copied().unwrap_or(OTHER)
}

/// Status and reason of a `run.finished`; without a reason the usual one of its status.
fn ending(payload: &Value) -> (&'static str, &'static str) {
    let text = |name: &str| payload.get(name).and_then(Value::as_str);
    let (status, usual) = match text("status") {
        Some("succeeded") => ("succeeded", "completed"),
        Some("canceled" | "cancelled") => ("canceled", "cancel_requested"),
        _ => ("failed", "execution_failed"),
    };
    (
        status,
        text("reason_class").map_or(usual, |reason| known(reason, &REASON_CLASSES)),
    )
}

fn events(event_type: &'static str, outcome: AppendOutcome, count: u64) {
    let outcome = outcome.as_str();
    metrics::counter!("runtime_events_appended_total", "event_type" => event_type, "outcome" => outcome)
        .increment(count);
}

fn finished(status: &'static str, reason_class: &'static str, count: u64) {
    metrics::counter!("runtime_run_finished_total", "status" => status, "reason_class" => reason_class)
        .increment(count);
}

fn written(projection: &'static str, result: &'static str, count: u64) {
    metrics::counter!("runtime_projection_write_total", "projection" => projection, "result" => result)
        .increment(count);
}

fn drifted(projection: &'static str, count: u64) {
    let reason = "sequence_gap";
    metrics::counter!("runtime_projection_drift_total", "projection" => projection, "reason_class" => reason)
        .increment(count);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn words_that_somebody_made_up_have_no_series_of_their_own() {
        assert_eq!(known("tool.call", &EVENT_TYPES), "tool.call");
        assert_eq!(known("tool.call.7", &EVENT_TYPES), "other");
        for (payload, expected) in [
            (json!({"status": "succeeded"}), ("succeeded", "completed")),
            (json!({"status": "cancelled"}), ("canceled", "cancel_requested")),
            (json!({"status": "failed"}), ("failed", "execution_failed")),
            (
                json!({"status": "failed", "reason_class": "timeout"}),
                ("failed", "timeout"),
            ),
            (
                json!({"status": "failed", "reason_class": "mine"}),
                ("failed", "other"),
            ),
            (
                json!({"status": "failed", "reason_class": 7}),
                ("failed", "execution_failed"),
            ),
        ] {
            assert_eq!(ending(&payload), expected, "{payload}");
        }
    }
}
