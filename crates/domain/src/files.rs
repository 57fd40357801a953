//! A run's files as told to others, and how an operation on them fails.

use crate::tool::{ArtifactRef, FileChange};

/// A file of the workspace: path relative to its root, size in bytes, RFC 3339 time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    pub filepath: String,
    pub size: i64,
    pub last_modified: String,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub artifact: ArtifactRef,
    /// There was a file of this path before.
    pub replaced: bool,
}

impl Written {
    pub fn change(&self) -> FileChange {
        FileChange::stored(&self.artifact, self.replaced)
    }
}

/// Failure of a workspace operation; `Display` is the text of the contract, told to the model.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    #[error("Invalid path: {0}")]
    InvalidPath(String),
    #[error("File not found: {0}")]
    NotFound(String),
    #[error("File is not valid UTF-8: {0}")]
    NotUtf8(String),
    #[error("Workspace limit exceeded")]
    LimitExceeded,
    /// The settings that are missing, joined by ` and `.
    #[error("{tool} is not configured: set {settings}")]
    NotConfigured { tool: String, settings: String },
    /// The store answered with an error or not at all; worth another attempt of the job.
    #[error("workspace storage failed: {0}")]
    Storage(String),
}
