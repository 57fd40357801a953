//! What a run may do without asking, what it has asked, and how an interrupt is made of a place that asks.
//!
//! Pure pieces; the driver's `approvals` put them to use. Ids are derived from the place, so that asking again after a lost
//! worker is the same question.

use crate::snapshot::{derived, step_id};
use crate::supervisor::DueTool;
use crate::tools::ask_user::Question;
use domain::ids::{InterruptId, RunId};
use domain::interrupt::{
    InterruptKind, KnownInterrupt, NewInterrupt, answer_schema, approval_schema, ask_for_call, call_hash,
    visible,
};
use domain::{Labels, Plan, Policy, ToolResult};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;

/// Seconds until an approval that nobody gave counts as rejected, unless set otherwise.
const APPROVAL_TIMEOUT: Duration = Duration::from_hours(24);

/// Why a person is asked about a plan.
pub const PLAN_ONLY: &str = "the run was created with plan_only";

/// Rules and interrupts of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    pub policy: Policy,
    /// The plan is shown to a person before anything of it is done.
    pub plan_only: bool,
    pub approval_timeout: Duration,
    /// Whatever was asked so far, decided or not.
    pub interrupts: Vec<KnownInterrupt>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            policy: Policy::standard(),
            plan_only: false,
            approval_timeout: APPROVAL_TIMEOUT,
            interrupts: vec![],
        }
    }
}

impl Gate {
    /// What was asked about the call at a place.
    pub fn asked(&self, (turn, action): (u32, u32)) -> Option<&KnownInterrupt> {
        self.interrupts
            .iter()
            .find(|asked| asked.kind != InterruptKind::Plan && (asked.turn, asked.action) == (turn, action))
    }

    /// The call with the input its user gave instead, when there is one.
    pub fn as_decided(&self, mut due: DueTool) -> DueTool {
        let asked = self.asked((due.turn, due.action));
        if let Some(input) = asked.and_then(KnownInterrupt::edited_input) {
            due.call.tool_input = Some(input.clone());
        }
        due
    }

    /// The result of an edited call says so, or the model would take the user's input for its own.
    pub fn with_edit_told(&self, place: (u32, u32), mut result: ToolResult) -> ToolResult {
        let Some(input) = self.asked(place).and_then(KnownInterrupt::edited_input) else {
            return result;
        };
        if !result.output.is_object() {
            result.output = json!({"output": result.output});
        }
        result.output["edited_by_user"] = json!({
            "note": "The user changed the input of this call before it was made.",
            "tool_input": input,
        });
        result
    }

    fn expires_at(&self, now: Timestamp) -> Option<Timestamp> {
        now.checked_add(self.approval_timeout).ok()
    }

    /// A person is to decide about a call.
    pub fn approval(
        &self,
        run_id: RunId,
        due: &DueTool,
        (labels, pin, reason): (Labels, Option<String>, String),
        now: Timestamp,
    ) -> NewInterrupt {
        let name = due.call.tool_name.clone().unwrap_or_default();
        let input = due.call.tool_input.clone().unwrap_or_else(|| json!({}));
        NewInterrupt {
            step_id: Some(step_id(run_id, due.turn, due.action)),
            hash: Some(call_hash(&name, &input, pin.as_deref())),
            labels,
            message: ask_for_call(&name, &input, &reason),
            reason,
            response_schema: approval_schema(),
            expires_at: self.expires_at(now),
            tool_name: Some(name),
            tool_input: Some(input),
            ..blank(run_id, InterruptKind::Tool, (due.turn, due.action))
        }
    }

    /// A person is to decide about the plan.
    pub fn plan_approval(&self, run_id: RunId, plan: &Plan, now: Timestamp) -> NewInterrupt {
        let value = serde_json::to_value(plan).unwrap_or(Value::Null);
        let phases: Vec<String> = plan
            .phases
            .iter()
            .map(|phase| format!("{}. {}", phase.phase_number, phase.name))
            .collect();
        NewInterrupt {
            hash: Some(domain::canonical::payload_hash(&value)),
            message: visible(&format!(
                "Carry out this plan? {}: {}",
                plan.goal,
                phases.join("; ")
            )),
            reason: PLAN_ONLY.to_owned(),
            response_schema: approval_schema(),
            expires_at: self.expires_at(now),
            tool_input: Some(value),
            ..blank(run_id, InterruptKind::Plan, (0, 0))
        }
    }
}

/// A question of the model, to be answered in words.
pub fn question(run_id: RunId, place: (u32, u32), text: &str) -> NewInterrupt {
    NewInterrupt {
        message: visible(text),
        reason: "the agent needs an answer".to_owned(),
        response_schema: answer_schema(&[], None),
        ..blank(run_id, InterruptKind::Question, place)
    }
}

/// As [`question`], asked by the tool `ask_user`.
pub(crate) fn tool_question(run_id: RunId, due: &DueTool, asked: &Question) -> NewInterrupt {
    let place = (due.turn, due.action);
    NewInterrupt {
        step_id: Some(step_id(run_id, due.turn, due.action)),
        tool_name: due.call.tool_name.clone(),
        tool_input: due.call.tool_input.clone(),
        response_schema: answer_schema(&asked.options, asked.schema.as_ref()),
        ..question(run_id, place, &asked.text())
    }
}

fn blank(run_id: RunId, kind: InterruptKind, (turn, action): (u32, u32)) -> NewInterrupt {
    let what = match kind {
        InterruptKind::Plan => "plan-interrupt",
        InterruptKind::Tool | InterruptKind::Question => "interrupt",
    };
    NewInterrupt {
        id: InterruptId(derived(run_id, what, turn, action)),
        kind,
        turn,
        action,
        step_id: None,
        tool_name: None,
        tool_input: None,
        hash: None,
        labels: Labels::default(),
        message: String::new(),
        reason: String::new(),
        response_schema: Value::Null,
        expires_at: None,
    }
}
