//! The agent's files: its port over the crate `workspace`, whose names are here as well.

use agent::ports::{FileInfo, Workspace, WorkspaceError, Written};
use bytes::Bytes;

pub use ::workspace::*;

/// The files of one run as the agent sees them.
#[derive(Debug, Clone)]
pub struct RunFiles(pub RunWorkspace);

impl Workspace for RunFiles {
    fn refusal(&self, path: &str) -> Option<WorkspaceError> {
        self.0.refusal(path)
    }

    async fn read(&self, path: &str) -> Result<Bytes, WorkspaceError> {
        self.0.read(path).await
    }

    async fn write(&self, path: &str, content: Bytes) -> Result<Written, WorkspaceError> {
        self.0.write(path, content).await
    }

    async fn list(&self, dir: &str) -> Result<Vec<FileInfo>, WorkspaceError> {
        self.0.list(dir).await
    }
}
