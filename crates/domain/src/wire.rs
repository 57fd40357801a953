//! The two stream forms of an event. Both are one line of JSON; nothing a user wrote reaches `id:` or `event:`.

use crate::clock::wire_time;
use crate::event::{Event, LogType};
use crate::ids::RunId;
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The default form: the object behind `data:` of the default stream, and the message published on
/// `agent:logs:{run_id}`.
pub fn default_data(event: &Event) -> Value {
    if event.log_type == LogType::Complete {
        return json!({
            "type": "complete",
            "run_id": event.run_id,
            "seq": event.seq,
            "status": event.metadata.get("status"),
            "message": event.message,
            "timestamp": wire_time(event.created_at),
        });
    }
    json!({
        "type": "log",
        "run_id": event.run_id,
        "seq": event.seq,
        "id": event.id,
        "log_type": event.log_type,
        "message": event.message,
        "metadata": event.metadata,
        "timestamp": wire_time(event.created_at),
    })
}

/// [`default_data`] of an ordinary event, borrowed.
#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    run_id: RunId,
    seq: i64,
    id: uuid::Uuid,
    log_type: LogType,
    message: &'a str,
    metadata: &'a Map<String, Value>,
    timestamp: String,
}

/// [`default_data`] as text, without a copy of the event: each one is made into frames.
pub fn default_text(event: &Event) -> String {
    let line = Line {
        r#type: "log",
        run_id: event.run_id,
        seq: event.seq,
        id: event.id,
        log_type: event.log_type,
        message: &event.message,
        metadata: &event.metadata,
        timestamp: wire_time(event.created_at),
    };
    let text = match event.log_type {
        LogType::Complete => None,
        _ => serde_json::to_string(&line).ok(),
    };
    text.unwrap_or_else(|| default_data(event).to_string())
}

/// [`named_data`] as text, likewise.
pub fn named_text(event: &Event) -> (&'static str, String) {
    let kind = event.metadata.get("event").and_then(Value::as_str);
    match (event.log_type, kind) {
        (LogType::Info, Some("tool_call" | "message" | "output")) => {}
        (LogType::Info | LogType::Success | LogType::Warning | LogType::Error, _) => {
            return ("log", default_text(event));
        }
        _ => {}
    }
    let (name, data) = named_data(event);
    (name, data.to_string())
}

fn pick(metadata: &Map<String, Value>, keys: &[&str]) -> Value {
    let pairs = keys.iter().map(|key| {
        (
            (*key).to_owned(),
            metadata.get(*key).cloned().unwrap_or(Value::Null),
        )
    });
    Value::Object(pairs.collect())
}

/// The named form: `event:` name and `data:` object.
pub fn named_data(event: &Event) -> (&'static str, Value) {
    let metadata = &event.metadata;
    let kind = metadata.get("event").and_then(Value::as_str);
    match event.log_type {
        LogType::StateTransition => {
            let mut data = pick(metadata, &["current_phase", "total_phases"]);
            let mut status = json!({"status": metadata.get("to_status")});
            if let (Some(status), Some(data)) = (status.as_object_mut(), data.as_object_mut()) {
                status.append(data);
            }
            ("status", status)
        }
        LogType::ToolSuccess | LogType::ToolError => {
            let mut data = pick(
                metadata,
                &[
                    "step_id",
                    "tool_name",
                    "success",
                    "output",
                    "error",
                    "duration_ms",
                ],
            );
            data["success"] = json!(event.log_type == LogType::ToolSuccess);
            ("tool_result", data)
        }
        LogType::UserInputRequired => ("message", pick(metadata, &["message_id", "role", "content"])),
        LogType::PhaseAdvance => (
            "phase",
            pick(
                metadata,
                &[
                    "from_phase",
                    "to_phase",
                    "current_phase",
                    "total_phases",
                    "percentage",
                ],
            ),
        ),
        LogType::Complete => (
            "complete",
            json!({"status": metadata.get("status"), "message": event.message}),
        ),
        LogType::Info if kind == Some("tool_call") => {
            let mut data = pick(metadata, &["step_id", "tool_name", "tool_input", "status"]);
            data["status"] = json!("running");
            ("tool_call", data)
        }
        LogType::Info if kind == Some("message") => {
            ("message", pick(metadata, &["message_id", "role", "content"]))
        }
        LogType::Info if kind == Some("output") => (
            "output",
            pick(metadata, &["id", "type", "file_name", "url", "mime_type"]),
        ),
        LogType::Info | LogType::Success | LogType::Warning | LogType::Error => ("log", default_data(event)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NewEvent;

    #[test]
    fn texts_are_the_data_as_text() {
        for log_type in LogType::ALL {
            for kind in ["", "tool_call", "message", "output", "other"] {
                let metadata = json!({"event": kind, "to_status": "queued", "status": "failed", "content": "a\r\n\u{2028}"});
                let new = NewEvent::new(log_type, "ü \"quoted\" \u{1}", metadata);
                let event = Event {
                    id: uuid::Uuid::nil(),
                    run_id: RunId(uuid::Uuid::nil()),
                    seq: 7,
                    log_type: new.log_type,
                    message: new.message,
                    metadata: new.metadata,
                    created_at: jiff::Timestamp::UNIX_EPOCH,
                };
                assert_eq!(default_text(&event), default_data(&event).to_string());
                let (name, data) = named_data(&event);
                assert_eq!(named_text(&event), (name, data.to_string()));
            }
        }
    }
}
