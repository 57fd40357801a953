//! What a new run is told about asking, and the refusal of a resume that cannot approve.

use crate::error::Problem;
use crate::fields::Fields;
use domain::{InterruptId, Policy};
use http::StatusCode;
use runs::RunRules;
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
pub(super) fn approval_open(open: &[InterruptId]) -> Problem {
    let ids: Vec<String> = open.iter().map(ToString::to_string).collect();
    let detail = format!(
        "The run waits for approval: decide with POST /agent/run/RUN/interrupts/ID, open: {}",
        ids.join(", ")
    );
    Problem::new(StatusCode::CONFLICT, "approval_required", detail)
}
