//! Receipt and replay of a run.

use super::Runtime;
use super::body::RunPath;
use super::refusal::Refusal;
use ::runs::{Replay, RuntimeError, figures};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures::stream::{once, try_unfold};
use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderValue, header};
use serde_json::Value;

const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// `GET /internal/v1/runs/{run_id}/receipt`.
pub async fn receipt(
    State(runtime): State<Runtime>,
    RunPath(run_id): RunPath,
) -> Result<Json<Value>, Refusal> {
    Ok(Json(runtime.runs.receipt(run_id).await?))
}

/// `GET /internal/v1/runs/{run_id}/replay`: sent while it is read. A store that fails in the middle cuts the
/// connection, so that a part is never taken for the whole.
pub async fn replay(State(runtime): State<Runtime>, RunPath(run_id): RunPath) -> Result<Response, Refusal> {
    let mut replay = runtime.runs.replay(run_id).await?;
    let opening = replay.lines().await?.unwrap_or_default();
    let first = replay.lines().await?.unwrap_or_default();
    let rest = try_unfold(replay, more).inspect_err(|error| {
        figures::replayed(false);
        tracing::warn!(error = %crate::error::chain(error), "replay is cut off");
    });
    let begun = once(async move { Ok(opening + &first) });
    let body = Body::from_stream(begun.chain(rest));
    Ok(([(header::CONTENT_TYPE, NDJSON)], body).into_response())
}

async fn more(mut replay: Replay) -> Result<Option<(String, Replay)>, RuntimeError> {
    let lines = replay.lines().await?;
    if lines.is_none() {
        figures::replayed(true);
    }
    Ok(lines.map(|lines| (lines, replay)))
}
