//! What a run asks a person: `GET …/interrupts` lists it, `POST …/interrupts/{interrupt_id}` decides one.
//!
//! Invariants:
//! - A decision is for the exact call that was shown: with `hash` it is refused when that is another one.
//! - The same word again is answered as the first time, another one is a conflict.

use crate::auth::{Principal, User};
use crate::edge::Trace;
use crate::error::Problem;
use crate::extract::{FromFields, Json, Query, RunPath, parse_run_id};
use crate::fields::Fields;
use crate::openapi::interrupts::{DecideRequest, DecidedAnswer, InterruptsAnswer};
use crate::openapi::params::{InterruptPath, InterruptsQuery, RunIdPath};
use crate::openapi::refusals::{ForRunWithQuery, ForSettling};
use crate::state::App;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use domain::interrupt::{
    InterruptDecision, InterruptKind, InterruptStatus, InterruptVerdict, is_same_decision,
};
use domain::{Command, InterruptId, JobId, MessageId, Plan, Rejection, RunId};
use http::StatusCode;
use runs::CommandError;
use serde_json::{Value, json};

/// What a run asks a person, oldest first.
#[utoipa::path(
    get,
    path = "/agent/run/{run_id}/interrupts",
    operation_id = "interrupts",
    tag = "runs",
    params(RunIdPath, InterruptsQuery),
    responses((status = 200, description = "What is asked", body = InterruptsAnswer), ForRunWithQuery),
    security(("bearer" = []))
)]
pub async fn list(
    State(app): State<App>,
    User(principal): User,
    RunPath(run): RunPath,
    query: Query,
) -> Result<Response, Problem> {
    let mut fields = Fields::of_query(&query);
    let status = fields.text("status").unwrap_or_default();
    if !matches!(status.as_str(), "" | "open" | "all") {
        fields.fault("status", "value_error", "Input should be one of open, all");
    }
    fields.finish()?;
    app.head(&principal, run).await?;
    let interrupts = app.reader(&principal).interrupts(run, status == "all").await?;
    Ok(axum::Json(json!({"success": true, "interrupts": interrupts})).into_response())
}

/// The body.
#[derive(Debug)]
pub struct Decided {
    decision: Option<InterruptDecision>,
    input: Option<Value>,
    reason: Option<String>,
    text: Option<String>,
    hash: Option<String>,
}

impl FromFields for Decided {
    fn read(fields: &mut Fields) -> Self {
        let name = fields.required_text("decision");
        let decision = InterruptDecision::parse(&name);
        if decision.is_none() && fields.is_sound() {
            let allowed = InterruptDecision::ALL.map(InterruptDecision::as_str).join(", ");
            let text = format!("Input should be one of {allowed}");
            fields.fault("decision", "value_error", text);
        }
        let input = fields.value("input");
        if input.as_ref().is_some_and(|input| !input.is_object()) {
            fields.fault("input", "value_error", "Input should be an object");
        }
        Self {
            decision,
            input,
            reason: fields.text("reason"),
            text: fields.text("text"),
            hash: fields.text("hash"),
        }
    }
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::bad_request("invalid_decision", detail.into())
}

impl Decided {
    /// The decision about this interrupt, when it fits.
    fn verdict(self, interrupt: &Value, message_id: MessageId) -> Result<InterruptVerdict, Problem> {
        let kind = interrupt["kind"].as_str().and_then(InterruptKind::parse);
        let (Some(decision), Some(kind)) = (self.decision, kind) else {
            return Err(Problem::internal());
        };
        if !decision.fits(kind) {
            return Err(invalid(match kind {
                InterruptKind::Question => "A question takes the decision answer with text",
                InterruptKind::Tool | InterruptKind::Plan => {
                    "This interrupt takes the decision approve, edit (with input) or reject"
                }
            }));
        }
        Ok(match decision {
            InterruptDecision::Approve => InterruptVerdict::Approve,
            InterruptDecision::Reject => InterruptVerdict::Reject { reason: self.reason },
            InterruptDecision::Answer => InterruptVerdict::Answer {
                text: self
                    .text
                    .filter(|text| !text.trim().is_empty())
                    .ok_or_else(|| invalid("The decision answer needs text"))?,
                message_id,
            },
            InterruptDecision::Edit => {
                let input = self
                    .input
                    .ok_or_else(|| invalid("The decision edit needs input, an object"))?;
                if kind == InterruptKind::Plan {
                    InterruptVerdict::EditPlan(plan(&input)?)
                } else {
                    InterruptVerdict::Edit(input)
                }
            }
        })
    }
}

fn plan(input: &Value) -> Result<Plan, Problem> {
    Plan::from_value(input)
        .map_err(|fault| Problem::bad_request("invalid_plan", format!("Invalid plan: {fault}")))
}

/// Approve, edit or reject a call or a plan, or answer a question.
#[utoipa::path(
    post,
    path = "/agent/run/{run_id}/interrupts/{interrupt_id}",
    operation_id = "decide_interrupt",
    tag = "runs",
    request_body = DecideRequest,
    params(InterruptPath),
    responses((status = 200, description = "Decided", body = DecidedAnswer), ForSettling),
    security(("bearer" = []))
)]
pub async fn decide(
    State(app): State<App>,
    User(principal): User,
    trace: Trace,
    Path((run, id)): Path<(String, String)>,
    Json { fields: decided, .. }: Json<Decided>,
) -> Result<Response, Problem> {
    let run = parse_run_id(&run)?;
    app.head(&principal, run).await?;
    let id: InterruptId = id.parse().map_err(|_| not_found())?;
    let shown = one(&app, &principal, run, id).await?;
    app.may_write()?;
    if decided.hash.as_deref().is_some_and(|hash| shown["hash"] != hash) {
        let detail = "The call is another one than the one of this hash: look at it again";
        return Err(Problem::new(StatusCode::CONFLICT, "hash_mismatch", detail));
    }
    let verdict = decided.verdict(&shown, MessageId(app.ids.uuid()))?;
    let command = Command::Decide {
        interrupt_id: id,
        verdict: verdict.clone(),
        now: app.clock.now(),
        job_id: JobId(app.ids.uuid()),
    };
    let committed = app
        .orchestration(&principal)
        .command(&principal.user_id, run, command, &trace.traceparent)
        .await;
    match committed {
        Ok(committed) => app.delivery.deliver(&committed, false).await,
        Err(CommandError::Rejected(Rejection::InterruptClosed(_))) => {
            let stored = one(&app, &principal, run, id).await?;
            decided_before(&stored, &verdict)?;
        }
        Err(error) => return Err(refused(error)),
    }
    let interrupt = one(&app, &principal, run, id).await?;
    let head = app.shown_run(&principal, run).await?;
    let body = json!({"success": true, "interrupt": interrupt, "run_status": head["status"]});
    Ok(axum::Json(body).into_response())
}

async fn one(app: &App, caller: &Principal, run: RunId, id: InterruptId) -> Result<Value, Problem> {
    let interrupt = app.reader(caller).interrupt(run, id).await?;
    interrupt.ok_or_else(not_found)
}

fn not_found() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "interrupt_not_found",
        "Interrupt not found",
    )
}

/// The same word again is no conflict.
fn decided_before(stored: &Value, again: &InterruptVerdict) -> Result<(), Problem> {
    let conflict = |code, detail| Err(Problem::new(StatusCode::CONFLICT, code, detail));
    let decision = stored["decision"].as_str().and_then(InterruptDecision::parse);
    match stored["status"].as_str().and_then(InterruptStatus::parse) {
        Some(InterruptStatus::Resolved) if is_same_decision(decision, &stored["response"], again) => Ok(()),
        Some(InterruptStatus::Resolved) => {
            conflict("already_decided", "This interrupt was decided otherwise")
        }
        Some(InterruptStatus::Expired) => conflict("interrupt_expired", "The approval has expired"),
        _ => conflict("interrupt_cancelled", "The run does not ask this any more"),
    }
}

fn refused(error: CommandError) -> Problem {
    match error {
        CommandError::Rejected(Rejection::InterruptExpired(_)) => Problem::new(
            StatusCode::CONFLICT,
            "interrupt_expired",
            "The approval has expired",
        ),
        CommandError::Rejected(Rejection::WrongDecision(_)) => {
            invalid("This decision does not fit what is asked")
        }
        other => other.into(),
    }
}
