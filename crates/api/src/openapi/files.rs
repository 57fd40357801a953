//! Answers of the routes that give files. As [`super::schema`].

use super::schema::Time;
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

/// Where a file can be fetched without a token.
#[derive(Debug, ToSchema)]
pub struct DownloadLink {
    pub url: String,
    pub expires_at: Time,
}
