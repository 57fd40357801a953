//! Metrics of tools and sandboxes, in one place; label values come from closed lists, never from a model's text.

use crate::reconcile::Difference;
use agent::tools::specs;
use domain::{Event, LogType};
use queue::Delivery;

/// Shows the counters at zero before their first event, so that a rate over them has a beginning.
pub fn register() {
    register_runtime();
    for name in [
        "agent_jobs_completed_total",
        "agent_jobs_failed_total",
        "agent_sandbox_created_total",
        "agent_sandbox_errors_total",
        "agent_sandbox_reaped_total",
        "agent_redis_connection_errors_total",
        "agent_lease_renewals_missed_total",
        "agent_leases_lost_total",
        "agent_leases_reclaimed_total",
        "agent_orphans_healed_total",
        "agent_redeliveries_total",
    ] {
        metrics::counter!(name).increment(0);
    }
    for kind in Difference::KINDS {
        metrics::counter!("agent_reconciler_differences_total", "kind" => kind).increment(0);
    }
    metrics::gauge!("agent_queue_oldest_pending_age_seconds").set(0.0);
    metrics::gauge!("agent_outbox_pending").set(0.0);
    metrics::gauge!("agent_active_sandboxes").set(0.0);
    metrics::gauge!("agent_jobs_in_progress").set(0.0);
    for spec in specs() {
        for status in ["success", "error"] {
            metrics::counter!("agent_tool_executions_total", "tool" => spec.name.clone(), "status" => status)
                .increment(0);
        }
    }
}

/// Families of the runtime's own names before their first event.
fn register_runtime() {
    runs::figures::register();
    for result in ["ok", "error"] {
        metrics::counter!("runtime_publish_total", "result" => result).increment(0);
        count_lease(LeaseAction::Claim, result, 0);
        count_lease(LeaseAction::Renew, result, 0);
    }
    count_lease(LeaseAction::Renew, "lost", 0);
    count_lease(LeaseAction::Steal, "ok", 0);
    for (result, class) in [("ok", "none"), ("error", "tool_error")] {
        tool_lifecycle("settled", result, class, 0);
    }
    tool_lifecycle("started", "none", "none", 0);
}

/// What is done to the lease of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseAction {
    Claim,
    /// A claim of a run whose worker was lost.
    Steal,
    Renew,
}

/// Counts operations on leases; `result` is `ok`, `error` or `lost`.
pub fn count_lease(action: LeaseAction, result: &'static str, count: u64) {
    let action = match action {
        LeaseAction::Claim => "claim",
        LeaseAction::Steal => "steal",
        LeaseAction::Renew => "renew",
    };
    metrics::counter!("runtime_lease_operation_total", "action" => action, "result" => result)
        .increment(count);
}

/// Counts the claim of a run; its first events say whether it was taken over.
pub fn count_claim(events: &[Event]) {
    let lost =
        |event: &Event| event.metadata.get("event").and_then(|name| name.as_str()) == Some("executor_lost");
    if events.iter().any(lost) {
        count_lease(LeaseAction::Steal, "ok", 1);
    } else {
        count_lease(LeaseAction::Claim, "ok", 1);
    }
}

/// Counts a call of a tool; what it was called with is no label.
fn tool_lifecycle(phase: &'static str, result: &'static str, error_class: &'static str, count: u64) {
    let state = if phase == "started" { "running" } else { "settled" };
    metrics::counter!("runtime_tool_lifecycle_total", "phase" => phase, "result" => result, "state" => state,
        "error_class" => error_class)
    .increment(count);
}

/// Counts a job that was handed out before: its worker died or was cut off.
pub fn count_delivery(delivery: &Delivery) {
    if delivery.deliveries > 1 {
        metrics::counter!("agent_redeliveries_total").increment(1);
    }
}

/// Counts the tool results among committed events: one per settled step.
pub fn count_tools(events: &[Event]) {
    for event in events {
        match event.log_type {
            LogType::ToolSuccess => tool_lifecycle("settled", "ok", "none", 1),
            LogType::ToolError => tool_lifecycle("settled", "error", "tool_error", 1),
            LogType::Info
                if event.metadata.get("event").and_then(|name| name.as_str()) == Some("tool_call") =>
            {
                tool_lifecycle("started", "none", "none", 1);
            }
            _ => {}
        }
        let status = match event.log_type {
            LogType::ToolSuccess => "success",
            LogType::ToolError => "error",
            _ => continue,
        };
        let tool = known_tool(event.metadata.get("tool_name").and_then(|name| name.as_str()));
        metrics::counter!("agent_tool_executions_total", "tool" => tool.clone(), "status" => status)
            .increment(1);
        if let Some(ms) = event
            .metadata
            .get("duration_ms")
            .and_then(serde_json::Value::as_f64)
        {
            metrics::histogram!("agent_tool_duration_seconds", "tool" => tool).record(ms / 1000.0);
        }
    }
}

/// A name the model made up is `unknown`: it must not make a time series of its own.
fn known_tool(name: Option<&str>) -> String {
    specs()
        .into_iter()
        .map(|spec| spec.name)
        .find(|known| Some(known.as_str()) == name)
        .unwrap_or_else(|| "unknown".to_owned())
}

/// One sandbox in use; dropped, also when its call is dropped, it is counted out.
#[derive(Debug)]
pub struct SandboxInUse(());

impl SandboxInUse {
    pub fn begin() -> Self {
        metrics::counter!("agent_sandbox_created_total").increment(1);
        metrics::gauge!("agent_active_sandboxes").increment(1.0);
        Self(())
    }
}

impl Drop for SandboxInUse {
    fn drop(&mut self) {
        metrics::gauge!("agent_active_sandboxes").decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::known_tool;

    #[test]
    fn a_made_up_tool_name_gets_no_time_series_of_its_own() {
        assert_eq!(known_tool(Some("shell")), "shell");
        assert_eq!(known_tool(Some("file_list")), "file_list");
        assert_eq!(known_tool(Some("nosuch")), "unknown");
        assert_eq!(known_tool(None), "unknown");
    }
}
