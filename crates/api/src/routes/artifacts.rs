//! What the tools of a run made: files with the step that wrote them, and an address to fetch one from the store itself.
//!
//! Invariant: an address leads to what the artifact says, size and hash. A file that was written again since belongs to the
//! later artifact of its path; the older one is told as gone.

use super::files::{files_of, lead_to, redirects, refused};
use crate::auth::User;
use crate::error::Problem;
use crate::extract::{Query, RunPath, parse_run_id};
use crate::fields::Fields;
use crate::openapi::files::{ArtifactsAnswer, DownloadLink};
use crate::openapi::params::{ArtifactPath, ArtifactsQuery, FileQuery, RunIdPath};
use crate::openapi::refusals::{ForArtifact, ForRunWithQuery};
use crate::state::App;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use domain::RunId;
use domain::files::WorkspaceError;
use http::StatusCode;
use runs::RunParts;
use serde_json::{Value, json};
use uuid::Uuid;
use workspace::WorkspacePath;

const DEFAULT_LIMIT: i64 = 100;
const MAX_LIMIT: i64 = 1000;

/// The artifacts of a run, newest first.
#[utoipa::path(
    get,
    path = "/agent/run/{run_id}/artifacts",
    operation_id = "artifacts",
    tag = "files",
    params(RunIdPath, ArtifactsQuery),
    responses((status = 200, description = "The artifacts", body = ArtifactsAnswer), ForRunWithQuery),
    security(("bearer" = []))
)]
pub async fn list(
    State(app): State<App>,
    User(principal): User,
    RunPath(run): RunPath,
    query: Query,
) -> Result<Response, Problem> {
    let mut fields = Fields::of_query(&query);
    let limit = fields.int("limit", 1..=MAX_LIMIT);
    fields.finish()?;
    app.head(&principal, run).await?;
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    let rows = app
        .reader(&principal)
        .parts(run, RunParts::Artifacts, limit)
        .await?;
    let artifacts: Vec<Value> = rows.iter().map(|row| shown(run, row)).collect();
    Ok(Json(json!({"success": true, "artifacts": artifacts})).into_response())
}

/// A stored artifact as it is shown: without where the store keeps it, with where it can be had.
fn shown(run: RunId, row: &Value) -> Value {
    let id = row["id"].as_str().unwrap_or_default();
    json!({
        "id": id,
        "step_id": row["step_id"],
        "filename": row["filename"],
        "file_path": row["file_path"],
        "file_type": row["file_type"],
        "file_size": row["file_size"],
        "content_hash": row["content_hash"],
        "created_at": row["created_at"],
        "download_url": format!("/agent/run/{run}/artifacts/{id}"),
    })
}

/// An artifact: leads to an address of the store that gives it to whoever has the address, for a short time.
#[utoipa::path(
    get,
    path = "/agent/run/{run_id}/artifacts/{artifact_id}",
    operation_id = "artifact",
    tag = "files",
    params(ArtifactPath, FileQuery),
    responses(
        (status = 200, description = "The address, with `redirect=false`", body = DownloadLink),
        (status = 307, description = "Go to the address", headers(("Location" = String, description = "The address"))),
        ForArtifact
    ),
    security(("bearer" = []))
)]
pub async fn one(
    State(app): State<App>,
    User(principal): User,
    Path((run, artifact)): Path<(String, String)>,
    query: Query,
) -> Result<Response, Problem> {
    let run = parse_run_id(&run)?;
    let redirects = redirects(&query)?;
    let files = files_of(&app, &principal, run).await?;
    let unknown = || Problem::new(StatusCode::NOT_FOUND, "artifact_not_found", "Artifact not found");
    let id: Uuid = artifact.parse().map_err(|_| unknown())?;
    let stored = app
        .reader(&principal)
        .artifact(run, id)
        .await?
        .ok_or_else(unknown)?;
    if stored.is_replaced {
        return Err(gone());
    }
    let path = WorkspacePath::parse(&stored.file_path).map_err(refused)?;
    match files.size(&path).await.map_err(refused)? {
        None => return Err(refused(WorkspaceError::NotFound(path.to_string()))),
        Some(bytes) if bytes as i64 != stored.file_size => return Err(gone()),
        Some(_) => {}
    }
    lead_to(&app, &files, &path, redirects).await
}

fn gone() -> Problem {
    let detail = "The file was written again since; a later artifact has it";
    Problem::new(StatusCode::GONE, "artifact_replaced", detail)
}
