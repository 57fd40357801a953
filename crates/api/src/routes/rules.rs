//! What a new run is told about asking, and how refused commands are told.

use crate::error::Problem;
use crate::fields::Fields;
use domain::{InterruptId, Policy, Rejection};
use http::StatusCode;
use runs::{CommandError, RunRules};
use serde_json::Value;

/// `policy` and `plan_only` of a create.
#[derive(Debug)]
pub(super) struct RuleFields {
    policy: Option<Value>,
    plan_only: bool,
}

impl RuleFields {
    pub(super) fn read(fields: &mut Fields) -> Self {
        Self {
            policy: fields.value("policy"),
            plan_only: fields.flag("plan_only").unwrap_or_default(),
        }
    }

    /// A policy that would not be understood later is refused now.
    pub(super) fn checked(self) -> Result<RunRules, Problem> {
        if let Some(Err(fault)) = self.policy.as_ref().map(Policy::parse) {
            return Err(Problem::bad_request(
                "invalid_policy",
                format!("Invalid policy: {fault}"),
            ));
        }
        Ok(RunRules {
            policy: self.policy,
            plan_only: self.plan_only,
        })
    }
}

/// A resume answers questions; a call or a plan needs a decision of its own.
fn approval_open(open: &[InterruptId]) -> Problem {
    let ids: Vec<String> = open.iter().map(ToString::to_string).collect();
    let detail = format!(
        "The run waits for approval: decide with POST /agent/run/RUN/interrupts/ID, open: {}",
        ids.join(", ")
    );
    Problem::new(StatusCode::CONFLICT, "approval_required", detail)
}

/// A refused command in the words of the contract.
pub(super) fn refused(error: CommandError) -> Problem {
    match error {
        CommandError::Rejected(Rejection::Transition { action, status }) => {
            let detail = format!("Cannot {action} run in status: {status}");
            Problem::bad_request("invalid_transition", detail)
        }
        CommandError::Rejected(Rejection::EffectUnknown(step)) => {
            let detail = format!(
                "The outcome of a tool call is unknown: say what became of it with POST /agent/run/RUN/effects/{step}"
            );
            Problem::new(StatusCode::CONFLICT, "effect_unknown", detail)
        }
        CommandError::Rejected(Rejection::ApprovalOpen(open)) => approval_open(&open),
        other => other.into(),
    }
}
