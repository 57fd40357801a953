//! `POST /agent/status`: one run with the lists asked for.

use crate::auth::User;
use crate::conditional;
use crate::error::Problem;
use crate::extract::{FromFields, Json, RunPath, parse_run_id};
use crate::fields::Fields;
use crate::openapi::answers::{RunAnswer, StatusAnswer};
use crate::openapi::params::{ConditionHeader, RunIdPath};
use crate::openapi::refusals::{ForRun, ForStatus};
use crate::openapi::request::StatusRequest;
use crate::state::App;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use domain::RunId;
use http::HeaderMap;
use runs::Reader;
use runs::reader::RunParts;
use serde_json::{Value, json};

const MAX_LIMIT: i64 = 1000;

/// The body; a list not included is `None`.
#[derive(Debug)]
pub struct Wanted {
    run_id: String,
    steps: Option<i64>,
    messages: Option<i64>,
    artifacts: Option<i64>,
    logs: Option<i64>,
}

impl FromFields for Wanted {
    fn read(fields: &mut Fields) -> Self {
        Self {
            run_id: fields.required_text("run_id"),
            steps: list(fields, "include_steps", "steps_limit", 50),
            messages: list(fields, "include_messages", "messages_limit", 100),
            artifacts: list(fields, "include_artifacts", "artifacts_limit", 50),
            logs: list(fields, "include_logs", "logs_limit", 100),
        }
    }
}

/// The limit, if the list is wanted.
fn list(fields: &mut Fields, include: &str, limit: &str, default: i64) -> Option<i64> {
    let include = fields.flag(include).unwrap_or(false);
    let limit = fields.int(limit, 1..=MAX_LIMIT).unwrap_or(default);
    include.then_some(limit)
}

/// A run with its lists.
#[utoipa::path(
    post,
    path = "/agent/status",
    operation_id = "status",
    tag = "runs",
    request_body = StatusRequest,
    responses((status = 200, description = "The run and the lists asked for", body = StatusAnswer), ForStatus),
    security(("bearer" = []))
)]
pub async fn status(
    State(app): State<App>,
    User(principal): User,
    Json { fields: wanted, .. }: Json<Wanted>,
) -> Result<Response, Problem> {
    let run = parse_run_id(wanted.run_id.trim())?;
    app.head(&principal, run).await?;
    let row = app.shown_run(&principal, run).await?;
    let reader = app.reader(&principal);
    let progress = reader.progress(run).await?;
    let body = json!({
        "run": row,
        "progress": progress,
        "steps": part(&reader, run, RunParts::Steps, wanted.steps).await?,
        "messages": part(&reader, run, RunParts::Messages, wanted.messages).await?,
        "artifacts": part(&reader, run, RunParts::Artifacts, wanted.artifacts).await?,
        "logs": part(&reader, run, RunParts::Logs, wanted.logs).await?,
    });
    Ok(axum::Json(body).into_response())
}

/// A run.
#[utoipa::path(
    get,
    path = "/agent/run/{run_id}",
    operation_id = "run",
    tag = "runs",
    params(RunIdPath, ConditionHeader),
    responses((status = 200, description = "The run", body = RunAnswer, headers(("ETag" = String, description = "For `If-None-Match`"))), (status = 304, description = "Nothing has changed since the `ETag` given"), ForRun),
    security(("bearer" = []))
)]
pub async fn one(
    State(app): State<App>,
    User(principal): User,
    RunPath(run): RunPath,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    app.head(&principal, run).await?;
    let row = app.shown_run(&principal, run).await?;
    let progress = app.reader(&principal).progress(run).await?;
    let body = json!({"run": row, "progress": progress});
    Ok(conditional::answer(&headers, &body))
}

async fn part(
    reader: &Reader,
    run: RunId,
    part: RunParts,
    limit: Option<i64>,
) -> Result<Option<Vec<Value>>, Problem> {
    match limit {
        Some(limit) => Ok(Some(reader.parts(run, part, limit).await?)),
        None => Ok(None),
    }
}
