//! What is stored of a run's files besides their content.

use super::Reader;
use crate::authority::row::column;
use crate::db::tx::{Statement, params, query};
use crate::store::StoreError;
use domain::ids::RunId;
use std::collections::HashMap;
use uuid::Uuid;

const EXPIRED: &str = "SELECT metadata ->> 'workspace' = 'expired' AS expired FROM agent_runs WHERE id = $1";

/// The last artifact of each path: of the run itself, else of the run whose files it was given.
const HASHES: &str = "WITH RECURSIVE line AS (
        SELECT $1::uuid AS id, 0 AS depth
        UNION ALL
        SELECT r.retry_of, line.depth + 1 FROM line JOIN agent_runs r ON r.id = line.id
         WHERE r.retry_of IS NOT NULL AND r.metadata ? 'workspace_copied' AND line.depth < 100)
    SELECT DISTINCT ON (a.file_path) a.file_path, a.content_hash, a.file_size
      FROM line JOIN agent_artifacts a ON a.run_id = line.id
     WHERE a.file_path = ANY($2)
     ORDER BY a.file_path, line.depth, a.created_at DESC, a.id DESC";

/// An artifact, and whether its file was written again with another content since.
const ARTIFACT: &str = "SELECT a.file_path, a.file_size, EXISTS (
        SELECT 1 FROM agent_artifacts later
         WHERE later.run_id = a.run_id AND later.file_path = a.file_path AND later.content_hash <> a.content_hash
           AND (later.created_at, later.id) > (a.created_at, a.id)) AS is_replaced
    FROM agent_artifacts a WHERE a.run_id = $1 AND a.id = $2";

/// A stored artifact, as far as fetching it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredArtifact {
    /// Relative to the workspace.
    pub file_path: String,
    /// In bytes.
    pub file_size: i64,
    /// A later step wrote the file again.
    pub is_replaced: bool,
}

/// What a tool said of a file it stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownFile {
    /// SHA-256 as hex.
    pub sha256: String,
    pub bytes: i64,
}

impl Reader {
    /// Whether the files of a run were deleted by retention.
    pub async fn files_expired(&self, run: RunId) -> Result<bool, StoreError> {
        let rows = query(&self.db, Statement::new(EXPIRED, params![run.0])).await?;
        let Some(row) = rows.first() else { return Ok(false) };
        Ok(column::<Option<bool>>(row, "expired")?.unwrap_or_default())
    }

    /// An artifact of this run.
    pub async fn artifact(&self, run: RunId, id: Uuid) -> Result<Option<StoredArtifact>, StoreError> {
        let rows = query(&self.db, Statement::new(ARTIFACT, params![run.0, id])).await?;
        let stored = |row: &tokio_postgres::Row| {
            Ok(StoredArtifact {
                file_path: column(row, "file_path")?,
                file_size: column(row, "file_size")?,
                is_replaced: column(row, "is_replaced")?,
            })
        };
        rows.first().map(stored).transpose()
    }

    /// What is known of the files at these paths.
    pub async fn known_files(
        &self,
        run: RunId,
        paths: Vec<String>,
    ) -> Result<HashMap<String, KnownFile>, StoreError> {
        if paths.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = query(&self.db, Statement::new(HASHES, params![run.0, paths])).await?;
        let known = |row: &tokio_postgres::Row| {
            let file = KnownFile {
                sha256: column(row, "content_hash")?,
                bytes: column(row, "file_size")?,
            };
            Ok((column(row, "file_path")?, file))
        };
        rows.iter().map(known).collect()
    }
}
