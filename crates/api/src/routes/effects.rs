//! The effect ledger of a run: `GET …/effects` lists it, `POST …/effects/{step_id}` says what became of a call whose
//! outcome is unknown.

use crate::auth::User;
use crate::edge::Trace;
use crate::error::Problem;
use crate::extract::{FromFields, Json, RunPath, parse_run_id};
use crate::fields::Fields;
use crate::openapi::answers::{EffectsAnswer, SettledAnswer};
use crate::openapi::params::{RunIdPath, StepPath};
use crate::openapi::refusals::{ForRun, ForSettling};
use crate::openapi::request::SettleRequest;
use crate::state::App;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use domain::{Command, EffectDecision, JobId, Rejection, StepId, Verdict};
use http::StatusCode;
use runs::CommandError;
use serde_json::{Value, json};

/// The effect ledger of a run.
#[utoipa::path(
    get,
    path = "/agent/run/{run_id}/effects",
    operation_id = "effects",
    tag = "runs",
    params(RunIdPath),
    responses((status = 200, description = "The ledger", body = EffectsAnswer), ForRun),
    security(("bearer" = []))
)]
pub async fn list(
    State(app): State<App>,
    User(principal): User,
    RunPath(run): RunPath,
) -> Result<Response, Problem> {
    app.head(&principal, run).await?;
    let effects = app.reader(&principal).effects(run).await?;
    Ok(axum::Json(json!({"run_id": run, "effects": effects})).into_response())
}

/// The body.
#[derive(Debug)]
pub struct Told {
    decision: Option<EffectDecision>,
    output: Option<Value>,
    note: Option<String>,
    epoch: Option<i64>,
}

impl FromFields for Told {
    fn read(fields: &mut Fields) -> Self {
        let name = fields.required_text("decision");
        let decision = EffectDecision::parse(&name);
        if decision.is_none() && fields.is_sound() {
            let allowed = EffectDecision::ALL.map(EffectDecision::as_str).join(", ");
            fields.fault(
                "decision",
                "value_error",
                format!("Input should be one of {allowed}"),
            );
        }
        Self {
            decision,
            output: fields.value("output"),
            note: fields.text("note"),
            epoch: fields.int("epoch", 0..=i64::MAX),
        }
    }
}

/// Say what became of a tool call whose outcome is unknown.
#[utoipa::path(
    post,
    path = "/agent/run/{run_id}/effects/{step_id}",
    operation_id = "settle_effect",
    tag = "runs",
    request_body = SettleRequest,
    params(StepPath),
    responses((status = 200, description = "Settled", body = SettledAnswer), ForSettling),
    security(("bearer" = []))
)]
pub async fn settle(
    State(app): State<App>,
    User(principal): User,
    trace: Trace,
    Path((run, step)): Path<(String, String)>,
    Json { fields: told, .. }: Json<Told>,
) -> Result<Response, Problem> {
    let run = parse_run_id(&run)?;
    app.head(&principal, run).await?;
    let step_id = step_of(&app.reader(&principal).effects(run).await?, &step)?;
    app.may_write()?;
    let Some(decision) = told.decision else {
        return Err(Problem::internal());
    };
    let command = Command::SettleEffect {
        step_id,
        verdict: Verdict {
            decision,
            output: told.output,
            note: told.note,
            epoch: told.epoch,
        },
        job_id: JobId(app.ids.uuid()),
    };
    let committed = app
        .orchestration(&principal)
        .command(&principal.user_id, run, command, &trace.traceparent)
        .await
        .map_err(refused)?;
    app.delivery.deliver(&committed, false).await;
    let body = json!({
        "run_id": run,
        "step_id": step_id,
        "decision": decision.as_str(),
        "status": committed.run.status,
        "message": format!("Effect settled as {}, the run goes on", decision.as_str()),
    });
    Ok(axum::Json(body).into_response())
}

/// The step of this id, when the run has it.
fn step_of(ledger: &[Value], id: &str) -> Result<StepId, Problem> {
    let known = ledger.iter().any(|effect| effect["step_id"] == id);
    let parsed = id.parse().ok().map(StepId);
    parsed
        .filter(|_| known)
        .ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, "step_not_found", "Step not found"))
}

fn refused(error: CommandError) -> Problem {
    match error {
        CommandError::Rejected(Rejection::NotUnknown(_)) => Problem::new(
            StatusCode::CONFLICT,
            "effect_not_unknown",
            "The outcome of this step is not in question, or was asked again meanwhile",
        ),
        other => other.into(),
    }
}
