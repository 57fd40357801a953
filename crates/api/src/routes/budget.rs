//! The budget of a run: `GET …/budget` shows caps and what was spent, `POST …/budget` sets caps. A run that waits for its
//! budget goes on when the new one has room.

use crate::auth::User;
use crate::error::Problem;
use crate::extract::{FromFields, Json, RunPath};
use crate::fields::Fields;
use crate::openapi::answers::BudgetAnswer;
use crate::openapi::params::RunIdPath;
use crate::openapi::refusals::{ForRun, ForSettling};
use crate::openapi::request::BudgetChangeRequest;
use crate::state::App;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use domain::budget::{BudgetChange, BudgetError};
use domain::{JobId, Rejection, RunId, RunStatus};
use runs::{CommandError, Funds};
use serde_json::{Value, json};

/// Caps of a run and what it has used.
#[utoipa::path(
    get,
    path = "/agent/run/{run_id}/budget",
    operation_id = "budget",
    tag = "runs",
    params(RunIdPath),
    responses((status = 200, description = "Caps and spending", body = BudgetAnswer), ForRun),
    security(("bearer" = []))
)]
pub async fn show(
    State(app): State<App>,
    User(principal): User,
    RunPath(run): RunPath,
) -> Result<Response, Problem> {
    let head = app.head(&principal, run).await?;
    let funds = app.reader(&principal).funds(run, app.clock.now()).await?;
    let funds = funds.ok_or_else(Problem::run_not_found)?;
    Ok(answer(run, funds, head.status))
}

/// The body; it is read as a whole.
#[derive(Debug)]
pub struct Caps;

impl FromFields for Caps {
    fn read(_: &mut Fields) -> Self {
        Self
    }
}

/// Set or take away caps.
#[utoipa::path(
    post,
    path = "/agent/run/{run_id}/budget",
    operation_id = "change_budget",
    tag = "runs",
    request_body = BudgetChangeRequest,
    params(RunIdPath),
    responses((status = 200, description = "Set", body = BudgetAnswer), ForSettling),
    security(("bearer" = []))
)]
pub async fn change(
    State(app): State<App>,
    User(principal): User,
    RunPath(run): RunPath,
    Json { whole, .. }: Json<Caps>,
) -> Result<Response, Problem> {
    app.head(&principal, run).await?;
    let change = named_caps(whole)?;
    app.may_write()?;
    let changed = app
        .orchestration(&principal)
        .change_budget(&principal.user_id, run, &change, JobId(app.ids.uuid()))
        .await;
    let (committed, funds) = changed.map_err(refused)?;
    app.delivery.deliver(&committed, false).await;
    Ok(answer(run, funds, committed.run.status))
}

/// The caps in `budget`, or at the top level.
fn named_caps(mut whole: Value) -> Result<BudgetChange, Problem> {
    let given = whole.get("budget").filter(|budget| !budget.is_null());
    let caps = if let Some(budget) = given {
        budget.clone()
    } else {
        if let Some(members) = whole.as_object_mut() {
            members.retain(|name, _| name != "run_id" && name != "budget");
        }
        whole
    };
    let change = BudgetChange::from_value(&caps).map_err(|fault| invalid(&fault))?;
    if change.is_empty() {
        let nothing = BudgetChange::from_value(&Value::Null).err();
        return Err(nothing.map_or_else(Problem::internal, |fault| invalid(&fault)));
    }
    Ok(change)
}

/// A budget that cannot be read, here and in `create`.
pub fn invalid(fault: &BudgetError) -> Problem {
    Problem::bad_request("invalid_budget", fault.to_string())
}

fn refused(error: CommandError) -> Problem {
    match error {
        CommandError::Rejected(Rejection::Transition { action, status }) => {
            let detail = format!("Cannot {action} run in status: {status}");
            Problem::bad_request("invalid_transition", detail)
        }
        other => other.into(),
    }
}

fn answer(run: RunId, funds: Funds, status: RunStatus) -> Response {
    let body = json!({
        "success": true,
        "run_id": run,
        "budget": funds.budget.to_value(),
        "spent": funds.spent.to_value(),
        "cost_known": !funds.unpriced,
        "run_status": status,
    });
    axum::Json(body).into_response()
}
