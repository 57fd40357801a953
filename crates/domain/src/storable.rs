//! What the store can hold: Postgres takes no U+0000, neither in texts nor in JSON.
//!
//! Invariant: whatever a change brings, each U+0000 in it has become U+FFFD before anything of it is hashed, compared or
//! written, so nothing that a model, a tool or a file says can make a commit fail. A call whose input would be altered by this
//! is not carried out; see `refused` of [`Action`].

use crate::action::{Action, Turn};
use crate::change::{Change, NewMessage, NewStep, RunError};
use crate::event::NewEvent;
use crate::interrupt::NewInterrupt;
use crate::plan::{Phase, Plan, PlanDifference};
use crate::tool::{ArtifactRef, FileChange, ToolResult};
use serde_json::{Map, Value};

/// Something with texts in it.
pub trait Storable {
    /// Makes each U+0000 of its texts, names of JSON members too, a U+FFFD.
    fn make_storable(&mut self);

    /// As [`Storable::make_storable`], of a value that is given on.
    #[must_use]
    fn storable(mut self) -> Self
    where
        Self: Sized,
    {
        self.make_storable();
        self
    }
}

/// Whether a JSON value holds U+0000 in a text or in a name.
pub fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(members) => members
            .iter()
            .any(|(name, member)| name.contains('\0') || holds_nul(member)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

impl Storable for String {
    fn make_storable(&mut self) {
        if self.contains('\0') {
            *self = self.replace('\0', "\u{FFFD}");
        }
    }
}

impl<T: Storable> Storable for Option<T> {
    fn make_storable(&mut self) {
        self.iter_mut().for_each(T::make_storable);
    }
}

impl<T: Storable> Storable for Vec<T> {
    fn make_storable(&mut self) {
        self.iter_mut().for_each(T::make_storable);
    }
}

impl Storable for Value {
    fn make_storable(&mut self) {
        match self {
            Self::String(text) => text.make_storable(),
            Self::Array(items) => items.make_storable(),
            Self::Object(members) => members.make_storable(),
            Self::Null | Self::Bool(_) | Self::Number(_) => {}
        }
    }
}

impl Storable for Map<String, Value> {
    fn make_storable(&mut self) {
        if self.keys().any(|name| name.contains('\0')) {
            let members = std::mem::take(self).into_iter();
            *self = members.map(|(name, member)| (name.storable(), member)).collect();
        }
        self.values_mut().for_each(Value::make_storable);
    }
}

impl Storable for NewEvent {
    fn make_storable(&mut self) {
        self.message.make_storable();
        self.metadata.make_storable();
    }
}

impl Storable for RunError {
    fn make_storable(&mut self) {
        self.code.make_storable();
        self.message.make_storable();
    }
}

impl Storable for NewMessage {
    fn make_storable(&mut self) {
        self.content.make_storable();
    }
}

impl Storable for Phase {
    fn make_storable(&mut self) {
        self.name.make_storable();
        self.description.make_storable();
        self.required_capabilities.make_storable();
        self.expected_outputs.make_storable();
    }
}

impl Storable for Plan {
    fn make_storable(&mut self) {
        self.goal.make_storable();
        self.required_capabilities.make_storable();
        self.risks.make_storable();
        self.phases.make_storable();
    }
}

impl Storable for PlanDifference {
    fn make_storable(&mut self) {
        self.added.make_storable();
        self.removed.make_storable();
        self.changed.make_storable();
    }
}

impl Storable for Action {
    fn make_storable(&mut self) {
        self.tool_name.make_storable();
        self.tool_input.make_storable();
        self.message.make_storable();
        self.reasoning.make_storable();
        self.call_id.make_storable();
        self.refused.make_storable();
    }
}

impl Storable for Turn {
    fn make_storable(&mut self) {
        self.actions.make_storable();
        self.raw.make_storable();
        self.fault.make_storable();
    }
}

impl Storable for NewStep {
    fn make_storable(&mut self) {
        self.tool_name.make_storable();
        self.tool_input.make_storable();
    }
}

impl Storable for ArtifactRef {
    fn make_storable(&mut self) {
        self.file_path.make_storable();
        self.content_hash.make_storable();
        self.mime_type.make_storable();
        self.storage_bucket.make_storable();
        self.storage_key.make_storable();
    }
}

impl Storable for FileChange {
    fn make_storable(&mut self) {
        self.path.make_storable();
        self.sha256.make_storable();
    }
}

impl Storable for ToolResult {
    fn make_storable(&mut self) {
        self.output.make_storable();
        self.error.make_storable();
        self.artifacts.make_storable();
        self.memory.make_storable();
        self.changes.make_storable();
    }
}

impl Storable for NewInterrupt {
    fn make_storable(&mut self) {
        self.tool_name.make_storable();
        self.tool_input.make_storable();
        self.hash.make_storable();
        self.message.make_storable();
        self.reason.make_storable();
        self.response_schema.make_storable();
    }
}

impl Storable for Change {
    fn make_storable(&mut self) {
        match self {
            Self::Log(event) => event.make_storable(),
            Self::Status { error, .. } => error.make_storable(),
            Self::PlanStored { plan } => plan.make_storable(),
            Self::PlanRevised {
                plan,
                reason,
                difference,
            } => {
                plan.make_storable();
                reason.make_storable();
                difference.make_storable();
            }
            Self::TurnStored {
                turn,
                model,
                provider,
                ..
            } => {
                turn.make_storable();
                model.make_storable();
                provider.make_storable();
            }
            Self::CallBilled {
                key, model, provider, ..
            } => [key, model, provider].into_iter().for_each(String::make_storable),
            Self::MessageAdded(message) => message.make_storable(),
            Self::InputRequested { question, .. } => question.make_storable(),
            Self::StepStarted(step) => step.make_storable(),
            Self::StepSettled { result, .. } => result.make_storable(),
            Self::InterruptOpened(interrupt) => interrupt.make_storable(),
            Self::InterruptClosed { response, .. } => response.make_storable(),
            Self::Waiting(what) => what.make_storable(),
            Self::BudgetSet(_)
            | Self::StepRestarted { .. }
            | Self::StepWaiting { .. }
            | Self::StepAdmitted { .. }
            | Self::StepReset { .. }
            | Self::StepUnknown { .. }
            | Self::CancelRunningSteps
            | Self::PhaseAdvanced { .. }
            | Self::WorkspaceCopied => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_zero_character_of_a_value_is_shown_as_replaced_names_too() {
        let value = json!({"b\0": ["\0x", {"c\0": null}], "a": "y\0\0", "n": 1});
        assert!(holds_nul(&value));
        let clean =
            json!({"b\u{fffd}": ["\u{fffd}x", {"c\u{fffd}": null}], "a": "y\u{fffd}\u{fffd}", "n": 1});
        let made = value.storable();
        assert_eq!(made.to_string(), clean.to_string(), "members keep their order");
        assert!(!holds_nul(&made));
        assert!(holds_nul(&json!({"\0": 1})) && holds_nul(&json!([["\0"]])));
        assert!(!holds_nul(&json!({"a": ["\u{fffd}", 0, null]})));
    }
}
