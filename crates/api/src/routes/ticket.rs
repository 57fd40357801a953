//! `POST /agent/run/{run_id}/ticket`: a ticket for the streams of a run.

use crate::auth::User;
use crate::error::Problem;
use crate::extract::RunPath;
use crate::openapi::answers::TicketAnswer;
use crate::openapi::params::RunIdPath;
use crate::openapi::refusals::ForRun;
use crate::state::App;
use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

/// A ticket for the streams of a run.
#[utoipa::path(
    post,
    path = "/agent/run/{run_id}/ticket",
    operation_id = "ticket",
    tag = "streams",
    params(RunIdPath),
    responses((status = 200, description = "A ticket", body = TicketAnswer), ForRun),
    security(("bearer" = []))
)]
pub async fn issue(
    State(app): State<App>,
    User(principal): User,
    RunPath(run): RunPath,
) -> Result<Json<Value>, Problem> {
    app.head(&principal, run).await?;
    let ticket = app.tickets.issue(&principal, run).await?;
    let expires_in = app.tickets.ttl.as_secs();
    Ok(Json(
        json!({"ticket": ticket, "run_id": run, "expires_in": expires_in}),
    ))
}
