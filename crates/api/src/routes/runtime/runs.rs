//! Runs, events and projections for callers inside the platform.

use super::Runtime;
use super::body::{Members, RunPath};
use super::refusal::Refusal;
use crate::extract::Query;
use ::runs::figures::{self, AppendOutcome};
use ::runs::{AppendEvent, Appended, EventWindow, NewRuntimeRun, RuntimeError};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

/// Most events of one reply, when a limit is given.
const MAX_EVENTS: i64 = 1000;
const IDEMPOTENT_REPLAY: HeaderName = HeaderName::from_static("idempotent-replay");

/// `POST /internal/v1/runs`.
pub async fn create(State(runtime): State<Runtime>, mut members: Members) -> Result<Response, Refusal> {
    let new = NewRuntimeRun {
        worker_id: members.text("worker_id")?,
        metadata: members.any("metadata")?,
    };
    let (run, events, committed) = runtime.runs.create(new).await?;
    runtime.delivery.publish(&committed.events).await;
    let body = json!({"run": run.to_json(&events)});
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

/// `POST /internal/v1/runs/{run_id}/events`.
pub async fn append(
    State(runtime): State<Runtime>,
    RunPath(run_id): RunPath,
    query: Query,
    mut members: Members,
) -> Result<Response, Refusal> {
    let window = window(&query)?;
    let event = AppendEvent {
        event_type: members.required_text("event_type")?,
        payload: members.any("payload")?,
        idempotency_key: members.text("idempotency_key")?,
        expected_previous_seq: members.count("expected_previous_seq")?,
    };
    let event_type = event.event_type.clone();
    let appended = runtime.runs.append(run_id, event, window).await;
    if let Some(outcome) = outcome(&appended) {
        figures::not_appended(&event_type, outcome);
    }
    let appended = appended?;
    if let Some(committed) = &appended.committed {
        runtime
            .delivery
            .deliver(committed, committed.remove_job.is_some())
            .await;
    }
    let body = json!({"run": appended.run.to_json(&appended.events)});
    let mut response = Json(body).into_response();
    if appended.replayed {
        let yes = HeaderValue::from_static("true");
        response.headers_mut().insert(IDEMPOTENT_REPLAY, yes);
    }
    Ok(response)
}

/// What an append came to; nothing where the event was written, which its commit counts.
fn outcome(appended: &Result<Appended, RuntimeError>) -> Option<AppendOutcome> {
    match appended {
        Ok(appended) if appended.committed.is_some() => None,
        Ok(appended) if appended.replayed => Some(AppendOutcome::Replayed),
        Ok(_) => Some(AppendOutcome::NoOp),
        Err(RuntimeError::Invalid(_)) => Some(AppendOutcome::Invalid),
        Err(RuntimeError::Conflict(_)) => Some(AppendOutcome::Conflict),
        Err(RuntimeError::NotFound) => Some(AppendOutcome::NotFound),
        Err(_) => Some(AppendOutcome::Error),
    }
}

/// `GET /internal/v1/runs/{run_id}`.
pub async fn get(
    State(runtime): State<Runtime>,
    RunPath(run_id): RunPath,
    query: Query,
) -> Result<Response, Refusal> {
    let (run, events) = runtime.runs.get(run_id, window(&query)?).await?;
    Ok(Json(json!({"run": run.to_json(&events)})).into_response())
}

/// `GET /internal/v1/projectors/checkpoints/{run_id}`.
pub async fn checkpoint(
    State(runtime): State<Runtime>,
    RunPath(run_id): RunPath,
) -> Result<Response, Refusal> {
    let checkpoint = runtime.runs.checkpoint(run_id).await?;
    Ok(Json(json!({"checkpoint": checkpoint})).into_response())
}

/// `GET /internal/v1/projectors/run-summary/{run_id}`.
pub async fn summary(State(runtime): State<Runtime>, RunPath(run_id): RunPath) -> Result<Response, Refusal> {
    let summary = runtime.runs.summary(run_id).await?;
    Ok(Json(json!({"summary": summary})).into_response())
}

/// `GET /internal/v1/projectors/drift?topic=`.
pub async fn drift(State(runtime): State<Runtime>, query: Query) -> Result<Response, Refusal> {
    let topic = query.all("topic").last().copied().unwrap_or_default().to_owned();
    if topic.contains('\0') {
        return Err(Refusal::invalid("topic must not contain U+0000"));
    }
    let drift = runtime.runs.drift(&topic).await?.ok_or_else(Refusal::not_found)?;
    Ok(Json(json!({"drift": drift})).into_response())
}

fn window(query: &Query) -> Result<EventWindow, Refusal> {
    Ok(EventWindow {
        after: number(query, "events_after", i64::MAX, 0)?,
        limit: number(query, "events_limit", MAX_EVENTS, 1)?,
    })
}

fn number(query: &Query, name: &str, most: i64, least: i64) -> Result<Option<i64>, Refusal> {
    let given = query.all(name);
    let Some(text) = given.last() else { return Ok(None) };
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    let wrong = || Refusal::invalid(format!("{name} must be an integer from {least} to {most}"));
    number.map(Some).ok_or_else(wrong)
}
