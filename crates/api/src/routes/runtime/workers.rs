//! Workers: registration, heartbeats, states, and the checkpoint of their lifecycle.
//!
//! The owner comes first: a request that names none, or two, is 400 before the worker is looked up.

use super::Runtime;
use super::body::Members;
use super::refusal::Refusal;
use crate::extract::Query;
use ::runs::workers::{Registration, Worker, WorkerOwner, WorkerStatus};
use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;
use serde_json::{Map, Value, json};

const ONE_OWNER: &str = "owner_user_id or owner_guest_scope must be provided (but not both)";

/// `POST /internal/v1/workers`.
pub async fn register(State(runtime): State<Runtime>, mut members: Members) -> Result<Response, Refusal> {
    let new = Registration {
        worker_id: members.text("worker_id")?,
        workspace_ref: members.text("workspace_ref")?,
        codex_home_ref: members.text("codex_home_ref")?,
        adapter: members.text("adapter")?,
        metadata: object(&mut members, "metadata")?,
        owner: owner_of_body(&mut members)?,
    };
    let worker = runtime.workers.register(new).await?;
    Ok((StatusCode::CREATED, shown(&runtime, &worker)).into_response())
}

/// `GET /internal/v1/workers/{worker_id}`.
pub async fn get(
    State(runtime): State<Runtime>,
    WorkerPath(worker_id): WorkerPath,
    query: Query,
) -> Result<Json<Value>, Refusal> {
    let owner = owner_of_query(&query)?.ok_or_else(|| Refusal::invalid(ONE_OWNER))?;
    let worker = runtime.workers.get(&worker_id, &owner).await?;
    Ok(shown(&runtime, &worker))
}

/// `GET /internal/v1/workers/{worker_id}/checkpoint`; the owner need not be named.
pub async fn checkpoint(
    State(runtime): State<Runtime>,
    WorkerPath(worker_id): WorkerPath,
    query: Query,
) -> Result<Json<Value>, Refusal> {
    let owner = owner_of_query(&query)?;
    let checkpoint = runtime.workers.checkpoint(&worker_id, owner.as_ref()).await?;
    Ok(Json(json!({"checkpoint": checkpoint})))
}

/// `POST /internal/v1/workers/{worker_id}/heartbeat`.
pub async fn heartbeat(
    State(runtime): State<Runtime>,
    WorkerPath(worker_id): WorkerPath,
    mut members: Members,
) -> Result<Json<Value>, Refusal> {
    let patch = object(&mut members, "metadata_patch")?;
    let owner = owner_of_body(&mut members)?;
    let worker = runtime.workers.heartbeat(&worker_id, &owner, patch).await?;
    Ok(shown(&runtime, &worker))
}

/// `POST /internal/v1/workers/{worker_id}/status`.
pub async fn status(
    State(runtime): State<Runtime>,
    WorkerPath(worker_id): WorkerPath,
    mut members: Members,
) -> Result<Json<Value>, Refusal> {
    let word = members.required_text("status")?;
    let unknown = || Refusal::unprocessable(format!("status is not a worker status: {word}"));
    let to = WorkerStatus::parse(&word).ok_or_else(unknown)?;
    let reason = members.text("reason")?;
    let owner = owner_of_body(&mut members)?;
    let worker = runtime.workers.set_status(&worker_id, &owner, to, reason).await?;
    Ok(shown(&runtime, &worker))
}

fn shown(runtime: &Runtime, worker: &Worker) -> Json<Value> {
    Json(json!({"worker": runtime.workers.show(worker)}))
}

/// An object or nothing.
fn object(members: &mut Members, name: &str) -> Result<Map<String, Value>, Refusal> {
    match members.any(name)? {
        Value::Null => Ok(Map::new()),
        Value::Object(object) => Ok(object),
        _ => Err(Refusal::unprocessable(format!("{name} must be an object"))),
    }
}

fn owner_of_body(members: &mut Members) -> Result<WorkerOwner, Refusal> {
    let user_id = members.count("owner_user_id")?;
    let guest_scope = members.text("owner_guest_scope")?;
    owner(user_id, guest_scope)?.ok_or_else(|| Refusal::invalid(ONE_OWNER))
}

fn owner_of_query(query: &Query) -> Result<Option<WorkerOwner>, Refusal> {
    let last = |name| query.all(name).last().map(|text| (*text).to_owned());
    let wrong = || Refusal::invalid("owner_user_id must be an integer >= 0");
    let user_id = match last("owner_user_id").filter(|text| !text.is_empty()) {
        None => None,
        Some(text) => Some(text.parse().ok().filter(|id| *id >= 0).ok_or_else(wrong)?),
    };
    let guest_scope = last("owner_guest_scope");
    if guest_scope.as_ref().is_some_and(|scope| scope.contains('\0')) {
        return Err(Refusal::invalid("owner_guest_scope must not contain U+0000"));
    }
    owner(user_id, guest_scope)
}

/// A blank scope counts as absent; both are too many.
fn owner(user_id: Option<i64>, guest_scope: Option<String>) -> Result<Option<WorkerOwner>, Refusal> {
    match (user_id, guest_scope.filter(|scope| !scope.trim().is_empty())) {
        (None, None) => Ok(None),
        (Some(id), None) => Ok(Some(WorkerOwner::User(id))),
        (None, Some(scope)) => Ok(Some(WorkerOwner::GuestScope(scope))),
        (Some(_), Some(_)) => Err(Refusal::invalid(ONE_OWNER)),
    }
}

/// `{worker_id}`: any text without U+0000.
#[derive(Debug, Clone)]
pub struct WorkerPath(pub String);

impl<S: Send + Sync> FromRequestParts<S> for WorkerPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let wrong = || Refusal::invalid("worker_id is not valid");
        let Path(text) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|_| wrong())?;
        if text.contains('\0') {
            return Err(wrong());
        }
        Ok(Self(text))
    }
}
