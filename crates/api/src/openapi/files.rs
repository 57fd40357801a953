//! Answers of the routes that give files. As [`super::schema`].

use super::schema::{Id, Time};
use utoipa::ToSchema;

/// A file of a run.
#[derive(Debug, ToSchema)]
pub struct StoredFile {
    /// Relative to the workspace.
    pub path: String,
    #[schema(minimum = 0)]
    pub bytes: i64,
    /// As the tool that stored it said; `null` where none did.
    pub sha256: Option<String>,
    pub last_modified: Time,
}

/// A page of `GET …/files`, by path.
#[derive(Debug, ToSchema)]
pub struct FilesPage {
    pub files: Vec<StoredFile>,
    pub has_more: bool,
    /// Set when there are more.
    pub next_cursor: Option<String>,
}

/// A file that a step of a run made.
#[derive(Debug, ToSchema)]
pub struct RunArtifact {
    pub id: Id,
    pub step_id: Option<Id>,
    pub filename: String,
    /// Relative to the workspace.
    pub file_path: String,
    /// MIME type.
    pub file_type: String,
    #[schema(minimum = 0)]
    pub file_size: i64,
    /// SHA-256 as hex.
    pub content_hash: String,
    pub created_at: Time,
    /// Path of the route that leads to the file.
    pub download_url: String,
}

/// Answer of `GET …/artifacts`, newest first.
#[derive(Debug, ToSchema)]
pub struct ArtifactsAnswer {
    pub success: bool,
    pub artifacts: Vec<RunArtifact>,
}

/// Where a file can be fetched without a token.
#[derive(Debug, ToSchema)]
pub struct DownloadLink {
    pub url: String,
    pub expires_at: Time,
}
