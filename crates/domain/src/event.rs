//! The stored event: one row of a run's log, with its place in the run's sequence.

use crate::ids::{MessageId, RunId, StepId};
use crate::status::RunStatus;
use crate::tool::ToolResult;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Tool outputs longer than this many bytes of JSON are cut in events; the step keeps the whole.
pub const MAX_EVENT_OUTPUT_BYTES: usize = 32 * 1024;

/// `log_type` of a stored event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogType {
    Info,
    Success,
    Warning,
    Error,
    ToolSuccess,
    ToolError,
    PhaseAdvance,
    StateTransition,
    UserInputRequired,
    Complete,
}

impl LogType {
    pub const ALL: [Self; 10] = [
        Self::Info,
        Self::Success,
        Self::Warning,
        Self::Error,
        Self::ToolSuccess,
        Self::ToolError,
        Self::PhaseAdvance,
        Self::StateTransition,
        Self::UserInputRequired,
        Self::Complete,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Success => "success",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::ToolSuccess => "tool_success",
            Self::ToolError => "tool_error",
            Self::PhaseAdvance => "phase_advance",
            Self::StateTransition => "state_transition",
            Self::UserInputRequired => "user_input_required",
            Self::Complete => "complete",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// An event before the store gives it `id`, `seq` and `created_at`.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    pub log_type: LogType,
    pub message: String,
    /// Always an object.
    pub metadata: Map<String, Value>,
}

/// A committed event of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub id: Uuid,
    pub run_id: RunId,
    /// Place in the run's sequence: 1, 2, 3, … without gap.
    pub seq: i64,
    pub log_type: LogType,
    pub message: String,
    pub metadata: Map<String, Value>,
    /// Strictly rising within a run.
    #[serde(with = "crate::clock::wire")]
    pub created_at: Timestamp,
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => Map::from_iter([("value".to_owned(), other)]),
    }
}

impl NewEvent {
    pub fn new(log_type: LogType, message: impl Into<String>, metadata: Value) -> Self {
        Self {
            log_type,
            message: message.into(),
            metadata: object(metadata),
        }
    }

    pub fn info(message: impl Into<String>) -> Self {
        Self::new(LogType::Info, message, json!({}))
    }

    pub fn warning(message: impl Into<String>, metadata: Value) -> Self {
        Self::new(LogType::Warning, message, metadata)
    }

    pub fn error(message: impl Into<String>) -> Self {
        Self::new(LogType::Error, message, json!({}))
    }

    /// Seq 1 of every run.
    pub fn created() -> Self {
        Self::new(LogType::Info, "Agent run created", json!({"event": "created"}))
    }

    /// A stored message becomes visible; `message` in the named stream.
    pub fn message(id: MessageId, role: &str, content: &str) -> Self {
        let metadata = json!({"event": "message", "message_id": id, "role": role, "content": content});
        Self::new(LogType::Info, content, metadata)
    }

    /// The agent asks its user something; also `message` in the named stream.
    pub fn user_input_required(id: MessageId, question: &str) -> Self {
        let metadata = json!({"message_id": id, "role": "assistant", "content": question});
        Self::new(
            LogType::UserInputRequired,
            format!("Waiting for user input: {question}"),
            metadata,
        )
    }

    pub fn state_transition(from: RunStatus, to: RunStatus, phase: u32, phases: u32) -> Self {
        let metadata =
            json!({"from_status": from, "to_status": to, "current_phase": phase, "total_phases": phases});
        Self::new(
            LogType::StateTransition,
            format!("Status changed from {from} to {to}"),
            metadata,
        )
    }

    pub fn tool_call(step_id: StepId, tool_name: &str, tool_input: &Value) -> Self {
        let metadata = json!({"event": "tool_call", "step_id": step_id, "tool_name": tool_name, "tool_input": tool_input});
        Self::new(LogType::Info, format!("Calling {tool_name}"), metadata)
    }

    /// A step cannot begin yet.
    pub fn waiting_for_capacity(step_id: StepId) -> Self {
        let metadata = json!({"event": "waiting", "step_id": step_id, "waiting": "quota"});
        Self::warning("Waiting for tool capacity", metadata)
    }

    /// `tool_success` or `tool_error`; the output is cut at [`MAX_EVENT_OUTPUT_BYTES`].
    pub fn tool_result(step_id: StepId, tool_name: &str, result: &ToolResult, duration_ms: i64) -> Self {
        let (output, truncated) = cut_output(&result.output);
        let mut metadata = object(json!({
            "tool_name": tool_name,
            "step_id": step_id,
            "credits_used": result.credits_used,
            "duration_ms": duration_ms,
            "output": output,
        }));
        if truncated {
            metadata.insert("truncated".to_owned(), Value::Bool(true));
        }
        if result.success {
            let message = format!("{tool_name} executed successfully");
            return Self {
                log_type: LogType::ToolSuccess,
                message,
                metadata,
            };
        }
        let error = result.error.as_deref().unwrap_or("unknown error");
        metadata.insert("error".to_owned(), json!(error));
        Self {
            log_type: LogType::ToolError,
            message: format!("{tool_name} failed: {error}"),
            metadata,
        }
    }

    pub fn phase_advance(from: u32, to: u32, phases: u32) -> Self {
        let percentage = crate::run::percentage(to, phases, false);
        let metadata = json!({"from_phase": from, "to_phase": to, "current_phase": to,
            "total_phases": phases, "percentage": percentage});
        Self::new(
            LogType::PhaseAdvance,
            format!("Advanced from phase {from} to phase {to}"),
            metadata,
        )
    }

    /// A file made by a tool; `url` is `storage://{bucket}/{key}`.
    pub fn output(artifact: &crate::change::NewArtifact) -> Self {
        let metadata = json!({
            "event": "output",
            "id": artifact.id,
            "type": "file",
            "file_name": artifact.filename,
            "url": format!("storage://{}/{}", artifact.storage_bucket, artifact.storage_key),
            "mime_type": artifact.file_type,
        });
        Self::new(
            LogType::Info,
            format!("File written: {}", artifact.file_path),
            metadata,
        )
    }

    /// The last event of every run.
    pub fn complete(status: RunStatus, error: Option<&str>) -> Self {
        let message = error
            .filter(|text| !text.is_empty())
            .unwrap_or("Execution finished");
        Self::new(LogType::Complete, message, json!({"status": status}))
    }
}

/// The output itself when it is small, else its text form cut at a character border.
fn cut_output(output: &Value) -> (Value, bool) {
    let text = output.to_string();
    if text.len() <= MAX_EVENT_OUTPUT_BYTES {
        return (output.clone(), false);
    }
    let mut end = MAX_EVENT_OUTPUT_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (Value::String(text[..end].to_owned()), true)
}
