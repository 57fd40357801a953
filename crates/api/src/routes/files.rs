//! The files of a run: a page of them, an address to fetch one from the store itself, and all of them as one zip.
//!
//! Invariants:
//! - A run of somebody else is an unknown run, before anything is said of its files.
//! - The store is asked before an answer begins: what is missing or away is told with a status. A zip that cannot be
//!   finished afterwards ends with the connection, never like a whole one.

use crate::auth::{Principal, User};
use crate::error::Problem;
use crate::extract::{Query, RunPath, parse_run_id};
use crate::fields::Fields;
use crate::openapi::files::{DownloadLink, FilesPage};
use crate::openapi::params::{FilePath, FileQuery, FilesQuery, RunIdPath};
use crate::openapi::refusals::{ForFile, ForFiles};
use crate::state::App;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use domain::RunId;
use domain::clock::wire_time;
use domain::files::WorkspaceError;
use futures::StreamExt as _;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use workspace::{RunWorkspace, StoredFile, WorkspacePath};

const DEFAULT_LIMIT: u16 = 100;
const MAX_LIMIT: i64 = 1000;

/// Why there is nothing to be had.
pub(super) fn refused(error: WorkspaceError) -> Problem {
    let text = error.to_string();
    match error {
        WorkspaceError::InvalidPath(_) => Problem::bad_request("invalid_path", text),
        WorkspaceError::NotFound(_) => Problem::new(StatusCode::NOT_FOUND, "file_not_found", text),
        WorkspaceError::NotConfigured { .. } => Problem::new(StatusCode::CONFLICT, "not_configured", text),
        WorkspaceError::NotUtf8(_) | WorkspaceError::LimitExceeded | WorkspaceError::Storage(_) => {
            tracing::warn!(error = text, "files of a run are not available");
            Problem::unavailable()
        }
    }
}

/// The files of the caller's run, when there may be some.
pub(super) async fn files_of(app: &App, caller: &Principal, run: RunId) -> Result<RunWorkspace, Problem> {
    app.head(caller, run).await?;
    if app.reader(caller).files_expired(run).await? {
        let detail = "The files of this run were deleted by retention";
        return Err(Problem::new(StatusCode::GONE, "files_expired", detail));
    }
    let files = app.files.of_run(&caller.user_id, run);
    files.store("download of files").map_err(refused)?;
    Ok(files)
}

/// The files of a run, by path.
#[utoipa::path(
    get,
    path = "/agent/run/{run_id}/files",
    operation_id = "files",
    tag = "files",
    params(RunIdPath, FilesQuery),
    responses((status = 200, description = "A page", body = FilesPage), ForFiles),
    security(("bearer" = []))
)]
pub async fn list(
    State(app): State<App>,
    User(principal): User,
    RunPath(run): RunPath,
    query: Query,
) -> Result<Response, Problem> {
    let mut fields = Fields::of_query(&query);
    let cursor = fields.text("cursor");
    let limit = fields.int("limit", 1..=MAX_LIMIT);
    fields.finish()?;
    let files = files_of(&app, &principal, run).await?;
    let limit = limit.map_or(DEFAULT_LIMIT, |limit| limit as u16);
    let page = files.page(cursor.as_deref(), limit).await.map_err(refused)?;
    let paths = page.files.iter().map(|file| file.path.to_string()).collect();
    let known = app.reader(&principal).known_files(run, paths).await?;
    let shown = |file: &StoredFile| {
        // What somebody else put there since is not what a tool stored.
        let sha256 = known
            .get(file.path.as_str())
            .filter(|known| known.bytes == file.bytes as i64)
            .map(|known| &known.sha256);
        let modified = wire_time(file.modified);
        json!({"path": file.path.as_str(), "bytes": file.bytes, "sha256": sha256, "last_modified": modified})
    };
    let body = json!({
        "files": page.files.iter().map(shown).collect::<Vec<Value>>(),
        "has_more": page.next.is_some(),
        "next_cursor": page.next,
    });
    Ok(Json(body).into_response())
}

/// A file of a run: leads to an address of the store that gives it to whoever has the address, for a short time.
#[utoipa::path(
    get,
    path = "/agent/run/{run_id}/files/{*path}",
    operation_id = "file",
    tag = "files",
    params(FilePath, FileQuery),
    responses(
        (status = 200, description = "The address, with `redirect=false`", body = DownloadLink),
        (status = 307, description = "Go to the address", headers(("Location" = String, description = "The address"))),
        ForFile
    ),
    security(("bearer" = []))
)]
pub async fn one(
    State(app): State<App>,
    User(principal): User,
    Path((run, path)): Path<(String, String)>,
    query: Query,
) -> Result<Response, Problem> {
    let run = parse_run_id(&run)?;
    let redirects = redirects(&query)?;
    let files = files_of(&app, &principal, run).await?;
    let path = WorkspacePath::parse(&path).map_err(refused)?;
    if files.size(&path).await.map_err(refused)?.is_none() {
        return Err(refused(WorkspaceError::NotFound(path.to_string())));
    }
    lead_to(&app, &files, &path, redirects).await
}

/// Whether the caller wants to be led to the address, or to be told it.
pub(super) fn redirects(query: &Query) -> Result<bool, Problem> {
    let mut fields = Fields::of_query(query);
    let redirect = fields.text("redirect");
    let redirects = match redirect.as_deref() {
        None | Some("true") => true,
        Some("false") => false,
        Some(_) => {
            fields.fault("redirect", "bool_type", "Input should be a valid boolean");
            true
        }
    };
    fields.finish()?;
    Ok(redirects)
}

/// The answer with the address of a file that is there.
pub(super) async fn lead_to(
    app: &App,
    files: &RunWorkspace,
    path: &WorkspacePath,
    redirects: bool,
) -> Result<Response, Problem> {
    let valid_for = app.limits.download_ttl;
    let expires_at = app.clock.now().checked_add(valid_for).unwrap_or_default();
    let url = files.link(path, valid_for).await.map_err(refused)?;
    let mut response = if redirects {
        let to = HeaderValue::from_str(&url).map_err(|_| Problem::internal())?;
        (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)]).into_response()
    } else {
        Json(json!({"url": url, "expires_at": wire_time(expires_at)})).into_response()
    };
    keep_private(&mut response);
    Ok(response)
}

/// All files of a run as one zip.
#[utoipa::path(
    get,
    path = "/agent/run/{run_id}/files.zip",
    operation_id = "files_zip",
    tag = "files",
    params(RunIdPath),
    responses((status = 200, description = "The zip, files by path", body = Vec<u8>, content_type = "application/zip"), ForFiles),
    security(("bearer" = []))
)]
pub async fn archive(
    State(app): State<App>,
    User(principal): User,
    RunPath(run): RunPath,
) -> Result<Response, Problem> {
    let files = files_of(&app, &principal, run).await?;
    let place = app.quota.stream(&principal.user_id)?;
    // A store that is away is told with a status.
    files.page(None, 1).await.map_err(refused)?;
    let chunks = workspace::zip(files).inspect(move |chunk| {
        let _held = &place;
        if let Err(error) = chunk {
            tracing::warn!(run_id = %run, error = %error, "a zip was broken off");
        }
    });
    let mut response = Response::new(Body::from_stream(chunks));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zip"));
    let name = format!("attachment; filename=\"run-{run}.zip\"");
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    keep_private(&mut response);
    Ok(response)
}

/// Nobody in between keeps it.
fn keep_private(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
