//! How a stored event of a platform run looks on the runtime surface (`runtime.run_events`), and the state
//! words of that surface.

use crate::event::{Event, LogType};
use crate::status::RunStatus;
use serde_json::{Map, Value, json};

/// A run's state in the words of `/internal/v1`.
pub const fn state_word(status: RunStatus, cancel_requested: bool) -> &'static str {
    match status {
        RunStatus::Completed => "succeeded",
        RunStatus::Failed | RunStatus::Timeout => "failed",
        RunStatus::Cancelled => "canceled",
        _ if cancel_requested => "canceling",
        RunStatus::Created => "created",
        RunStatus::Queued
        | RunStatus::Planning
        | RunStatus::Executing
        | RunStatus::WaitingUser
        | RunStatus::Paused => "running",
    }
}

/// Why a platform run ended, as one closed list.
pub fn reason_class(status: RunStatus, error_code: Option<&str>) -> &'static str {
    match (status, error_code) {
        (RunStatus::Completed, _) => "completed",
        (RunStatus::Cancelled, _) => "cancel_requested",
        (RunStatus::Timeout, _) => "timeout",
        (_, Some("max_attempts" | "poison")) => "executor_recovery_exhausted",
        _ => "execution_failed",
    }
}

fn pick(metadata: &Map<String, Value>, keys: &[&str]) -> Value {
    Value::Object(
        keys.iter()
            .map(|key| {
                (
                    (*key).to_owned(),
                    metadata.get(*key).cloned().unwrap_or(Value::Null),
                )
            })
            .collect(),
    )
}

/// Event type and payload of a platform run's event. `error_code` is the run's, for the final event.
pub fn of_platform_event(event: &Event, error_code: Option<&str>) -> (&'static str, Value) {
    let metadata = &event.metadata;
    let kind = metadata.get("event").and_then(Value::as_str).unwrap_or_default();
    match (event.log_type, kind) {
        (_, _) if event.seq == 1 => ("run.created", json!({"source": "agent-api"})),
        (LogType::Complete, _) => finished(metadata, error_code),
        (LogType::StateTransition, _) => status_changed(metadata),
        (LogType::ToolSuccess | LogType::ToolError, _) => {
            let keys = [
                "step_id",
                "tool_name",
                "success",
                "output",
                "error",
                "duration_ms",
            ];
            let mut payload = pick(metadata, &keys);
            payload["success"] = json!(event.log_type == LogType::ToolSuccess);
            ("tool.result", payload)
        }
        (LogType::UserInputRequired, _) => ("run.delta", delta(metadata)),
        (LogType::Info, "message") if metadata.get("role") == Some(&json!("assistant")) => {
            ("run.delta", delta(metadata))
        }
        (LogType::Info, "tool_call") => {
            let mut payload = pick(metadata, &["step_id", "tool_name", "tool_input", "status"]);
            payload["status"] = json!("running");
            ("tool.call", payload)
        }
        (LogType::Info, "cancel_requested") => (
            "run.cancel_requested",
            json!({"reason": "stop", "requested_by": metadata.get("requested_by")}),
        ),
        (LogType::Warning, "executor_lost") => ("run.executor_lost", pick(metadata, &["attempt"])),
        _ => {
            let payload = json!({"log_type": event.log_type, "message": event.message, "metadata": metadata});
            ("run.log", payload)
        }
    }
}

fn delta(metadata: &Map<String, Value>) -> Value {
    json!({"delta": metadata.get("content"), "message_id": metadata.get("message_id")})
}

fn finished(metadata: &Map<String, Value>, error_code: Option<&str>) -> (&'static str, Value) {
    let status = metadata
        .get("status")
        .and_then(Value::as_str)
        .and_then(RunStatus::parse);
    let status = status.unwrap_or(RunStatus::Failed);
    let word = state_word(status, false);
    (
        "run.finished",
        json!({"status": word, "reason_class": reason_class(status, error_code)}),
    )
}

fn status_changed(metadata: &Map<String, Value>) -> (&'static str, Value) {
    let word = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default();
    let (from, to) = (word("from_status"), word("to_status"));
    if from == "created" && to == "queued" {
        return ("run.started", json!({"source": "agent-api"}));
    }
    ("run.status_changed", json!({"from": from, "to": to}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NewEvent;
    use crate::ids::RunId;
    use jiff::Timestamp;
    use uuid::Uuid;

    fn stored(seq: i64, new: NewEvent) -> Event {
        Event {
            id: Uuid::nil(),
            run_id: RunId(Uuid::nil()),
            seq,
            log_type: new.log_type,
            message: new.message,
            metadata: new.metadata,
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn platform_events_have_one_twin_each() {
        let twin = |seq, new| of_platform_event(&stored(seq, new), None).0;
        assert_eq!(twin(1, NewEvent::created()), "run.created");
        let moved = |from, to| NewEvent::state_transition(from, to, 0, 0);
        assert_eq!(
            twin(3, moved(RunStatus::Created, RunStatus::Queued)),
            "run.started"
        );
        assert_eq!(
            twin(4, moved(RunStatus::Queued, RunStatus::Planning)),
            "run.status_changed"
        );
        assert_eq!(twin(5, NewEvent::info("x")), "run.log");
        assert_eq!(
            twin(9, NewEvent::complete(RunStatus::Timeout, None)),
            "run.finished"
        );
        let (_, payload) = of_platform_event(
            &stored(9, NewEvent::complete(RunStatus::Failed, None)),
            Some("poison"),
        );
        assert_eq!(
            payload,
            json!({"status": "failed", "reason_class": "executor_recovery_exhausted"})
        );
    }
}
