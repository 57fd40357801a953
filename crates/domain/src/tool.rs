//! What a tool call gives back and what kind of effect it has.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Whether a tool call may be repeated after its worker was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Reads only.
    Pure,
    /// Repeating it with the same key leads to the same state.
    Idempotent,
    /// Must not be repeated when its outcome is unknown.
    AtMostOnce,
}

impl Effect {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Idempotent => "idempotent",
            Self::AtMostOnce => "at_most_once",
        }
    }
}

/// A file a tool made: path relative to the workspace root, size in bytes, SHA-256 as hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRef {
    pub file_path: String,
    pub file_size: i64,
    pub content_hash: String,
    pub mime_type: String,
    pub storage_bucket: String,
    pub storage_key: String,
}

/// What became of a file in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileChangeKind {
    Added,
    Changed,
    Deleted,
}

/// One file that a step added, changed or deleted: path relative to the workspace root; SHA-256 as hex and size are there
/// unless it was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    pub path: String,
    pub change: FileChangeKind,
    pub sha256: Option<String>,
    pub bytes: Option<i64>,
}

impl FileChange {
    /// A file that is there after the step.
    pub fn stored(file: &ArtifactRef, was_there: bool) -> Self {
        Self {
            path: file.file_path.clone(),
            change: if was_there {
                FileChangeKind::Changed
            } else {
                FileChangeKind::Added
            },
            sha256: Some(file.content_hash.clone()),
            bytes: Some(file.file_size),
        }
    }

    /// A file that is gone after the step.
    pub fn deleted(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            change: FileChangeKind::Deleted,
            sha256: None,
            bytes: None,
        }
    }
}

/// The stored result of a tool call (`agent_steps.tool_output`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolResult {
    pub output: Value,
    pub success: bool,
    pub error: Option<String>,
    pub credits_used: f64,
    pub artifacts: Vec<ArtifactRef>,
    pub memory: Vec<Value>,
}

impl ToolResult {
    pub fn ok(output: Value, credits_used: f64) -> Self {
        Self {
            output,
            success: true,
            error: None,
            credits_used,
            artifacts: vec![],
            memory: vec![],
        }
    }

    pub fn failed(error: impl Into<String>, credits_used: f64) -> Self {
        Self {
            output: json!({}),
            success: false,
            error: Some(error.into()),
            credits_used,
            artifacts: vec![],
            memory: vec![],
        }
    }

    /// The result of a call that was stopped.
    pub fn cancelled() -> Self {
        Self::failed("Cancelled", 0.0)
    }
}
