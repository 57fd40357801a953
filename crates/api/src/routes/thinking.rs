//! `POST /agent/run/{run_id}/thinking?content=`: a line that open named streams show at once and that is never stored in the
//! run. Redis keeps it for 30 s, for viewers who come within that time.

use crate::auth::User;
use crate::error::Problem;
use crate::extract::{Query, RunPath};
use crate::fields::Fields;
use crate::openapi::answers::ThinkingAnswer;
use crate::openapi::params::{RunIdPath, ThinkingQuery};
use crate::openapi::refusals::ForRunWithQuery;
use crate::state::App;
use crate::stream::frames::Form;
use crate::stream::message::thinking_frame;
use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use domain::RunId;
use serde_json::{Value, json};
use std::time::Duration;

/// Longest `content`, in bytes.
const MAX_BYTES: usize = 8192;
/// Longest wait for Redis to take a line.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait of a new viewer for the line there may be.
const VIEWER_PATIENCE: Duration = Duration::from_millis(250);

/// Show a line of thought to whoever watches the named stream.
#[utoipa::path(
    post,
    path = "/agent/run/{run_id}/thinking",
    operation_id = "think",
    tag = "streams",
    params(RunIdPath, ThinkingQuery),
    responses((status = 200, description = "Shown", body = ThinkingAnswer), ForRunWithQuery),
    security(("bearer" = []))
)]
pub async fn think(
    State(app): State<App>,
    User(principal): User,
    RunPath(run): RunPath,
    query: Query,
) -> Result<Json<Value>, Problem> {
    let mut content = content(&query)?;
    app.redactor.string(&mut content);
    app.head(&principal, run).await?;
    let queue = app.queue.as_ref().filter(|queue| queue.is_connected());
    let queue = queue.ok_or_else(Problem::unavailable)?;
    match tokio::time::timeout(PATIENCE, queue.think(run, &content)).await {
        Ok(Ok(())) => Ok(Json(json!({"success": true}))),
        Ok(Err(error)) => {
            tracing::warn!(run_id = %run, error = %crate::error::chain(&error), "thinking could not be shown");
            Err(Problem::unavailable())
        }
        Err(_) => Err(Problem::unavailable()),
    }
}

fn content(query: &Query) -> Result<String, Problem> {
    let mut fields = Fields::of_query(query);
    let content = fields.required_text("content");
    if content.len() > MAX_BYTES {
        let msg = format!("Text should have at most {MAX_BYTES} bytes");
        fields.fault("content", "value_error", msg);
    }
    fields.finish().map(|()| content)
}

/// The frame for a viewer who comes while a line is fresh; Redis being away means none.
pub async fn fresh(app: &App, run: RunId, form: Form) -> Option<Bytes> {
    let queue = app.queue.as_ref().filter(|queue| queue.is_connected())?;
    if form == Form::Default {
        return None;
    }
    let asked = tokio::time::timeout(VIEWER_PATIENCE, queue.thought(run)).await;
    thinking_frame(&asked.ok()?.ok()??).bytes(form)
}
