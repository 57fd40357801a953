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

/// Most files that are named for a step; all of them are counted.
const NAMED_FILES: usize = 1000;

/// What a step changed, for its metadata: `added` and `changed` with hash and size, `deleted` by path. When there are more than
/// [`NAMED_FILES`], `counts` says how many there are of each.
pub fn files_of_step(changes: &[FileChange]) -> Value {
    let named = &changes[..changes.len().min(NAMED_FILES)];
    let of = |kind: FileChangeKind| named.iter().filter(move |file| file.change == kind);
    let stored = |kind| -> Vec<Value> {
        of(kind)
            .map(|file| json!({"path": file.path, "sha256": file.sha256, "bytes": file.bytes}))
            .collect()
    };
    let deleted: Vec<&str> = of(FileChangeKind::Deleted)
        .map(|file| file.path.as_str())
        .collect();
    let mut files = json!({
        "added": stored(FileChangeKind::Added),
        "changed": stored(FileChangeKind::Changed),
        "deleted": deleted,
    });
    if named.len() < changes.len() {
        let count = |kind| changes.iter().filter(|file| file.change == kind).count();
        files["counts"] = json!({
            "added": count(FileChangeKind::Added),
            "changed": count(FileChangeKind::Changed),
            "deleted": count(FileChangeKind::Deleted),
        });
    }
    files
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
    /// Files the call added, changed or deleted; kept with the step, not with its result.
    #[serde(skip)]
    pub changes: Vec<FileChange>,
    /// The call was refused before anything was done: it has read nothing. Said by the driver alone, never by a tool; kept with
    /// the step, not with its result.
    #[serde(skip)]
    pub refused: bool,
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
            changes: vec![],
            refused: false,
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
            changes: vec![],
            refused: false,
        }
    }

    /// The same, of a call that was refused before anything was done.
    #[must_use]
    pub fn as_refused(self) -> Self {
        Self {
            refused: true,
            ..self
        }
    }

    /// The result of a call that was stopped.
    pub fn cancelled() -> Self {
        Self::failed("Cancelled", 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(number: usize) -> FileChange {
        FileChange {
            path: format!("{number:04}"),
            change: FileChangeKind::Added,
            sha256: Some("ab".to_owned()),
            bytes: Some(1),
        }
    }

    #[test]
    fn what_a_step_did_to_files_is_told_by_kind() {
        let changed = FileChange {
            change: FileChangeKind::Changed,
            ..added(2)
        };
        let files = files_of_step(&[added(1), FileChange::deleted("gone"), changed]);
        let stored = |path: &str| json!([{"path": path, "sha256": "ab", "bytes": 1}]);
        let told = json!({"added": stored("0001"), "changed": stored("0002"), "deleted": ["gone"]});
        assert_eq!(files, told);
    }

    #[test]
    fn of_very_many_files_the_first_are_named_and_all_are_counted() {
        let mut changes: Vec<FileChange> = (0..1500).map(added).collect();
        changes.push(FileChange::deleted("gone"));
        let files = files_of_step(&changes);
        assert_eq!(files["added"].as_array().unwrap().len(), NAMED_FILES);
        assert_eq!(files["deleted"], json!([]));
        assert_eq!(
            files["counts"],
            json!({"added": 1500, "changed": 0, "deleted": 1})
        );
    }

    #[test]
    fn the_stored_result_has_its_six_members_whatever_was_changed() {
        let result = ToolResult {
            changes: vec![added(1)],
            ..ToolResult::ok(json!({}), 1.0)
        };
        let stored = serde_json::to_value(&result).unwrap();
        let names: Vec<&String> = stored.as_object().unwrap().keys().collect();
        assert_eq!(
            names,
            [
                "output",
                "success",
                "error",
                "credits_used",
                "artifacts",
                "memory"
            ]
        );
        assert_eq!(serde_json::from_value::<ToolResult>(stored).unwrap().changes, []);
    }
}
