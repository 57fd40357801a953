//! Why a run does not move (`waiting_for`), in words for programs and people.
//!
//! Shape: `{"kind", "since", "until"?, "detail"}`, `effect_unknown` with `step_id`, `tool_name`, `tool_input` and `epoch` besides. What
//! a run itself knows is stored with it; where it stands in the queue is seen when somebody asks.

use crate::ids::StepId;
use crate::interrupt::{InterruptKind, OpenInterrupt};
use serde_json::{Value, json};

/// What a run can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WaitKind {
    /// Nobody serves the queue, or the run is not in it yet.
    Queue,
    /// In line; every worker is busy.
    WorkerSlot,
    /// Another attempt, after a failure.
    Retry,
    /// The model's vendor asked to wait.
    ModelBackoff,
    /// The user: to start, to resume, to answer.
    User,
    /// A person who allows a tool call.
    Approval,
    /// A person who says what became of a tool call.
    EffectUnknown,
    /// A raised limit on spending.
    Budget,
    /// Room for a tool's sandbox.
    SandboxCapacity,
}

impl WaitKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::WorkerSlot => "worker_slot",
            Self::Retry => "retry",
            Self::ModelBackoff => "model_backoff",
            Self::User => "user",
            Self::Approval => "approval",
            Self::EffectUnknown => "effect_unknown",
            Self::Budget => "budget",
            Self::SandboxCapacity => "sandbox_capacity",
        }
    }
}

/// Why another attempt is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryCause {
    /// Something failed that may work again.
    Failure,
    /// The model's vendor is overloaded or limits us.
    ModelLimit,
}

impl RetryCause {
    pub const fn kind(self) -> WaitKind {
        match self {
            Self::Failure => WaitKind::Retry,
            Self::ModelLimit => WaitKind::ModelBackoff,
        }
    }
}

/// `waiting_for` without its time.
pub fn waiting(kind: WaitKind, detail: &str) -> Value {
    json!({"kind": kind.as_str(), "detail": detail})
}

/// `waiting_for` of a tool call whose outcome nobody here knows. `epoch` is the run's while it is asked.
pub fn effect_unknown(step_id: StepId, call: (&str, &Value), epoch: i64, reason: &str) -> Value {
    let (tool_name, tool_input) = call;
    json!({
        "kind": WaitKind::EffectUnknown.as_str(),
        "step_id": step_id,
        "tool_name": tool_name,
        "tool_input": tool_input,
        "epoch": epoch,
        "detail": format!("{reason}; whether {tool_name} took effect is not known"),
    })
}

/// `waiting_for` of open interrupts: an approval when there is one among them, else an answer.
pub fn interrupted(open: &[OpenInterrupt], detail: &str) -> Value {
    let is_question = |interrupt: &OpenInterrupt| interrupt.kind == InterruptKind::Question;
    let kind = if open.iter().all(is_question) {
        WaitKind::User
    } else {
        WaitKind::Approval
    };
    let ids: Vec<String> = open.iter().map(|interrupt| interrupt.id.to_string()).collect();
    json!({"kind": kind.as_str(), "detail": detail, "interrupt_ids": ids})
}

/// In words: what is open.
pub fn open_in_words(open: &[OpenInterrupt]) -> String {
    let names: Vec<&str> = open
        .iter()
        .map(|interrupt| match (interrupt.kind, &interrupt.tool_name) {
            (InterruptKind::Plan, _) => "the plan",
            (InterruptKind::Question, _) => "a question",
            (InterruptKind::Tool, name) => name.as_deref().unwrap_or("a tool"),
        })
        .collect();
    format!("a person decides about {}", names.join(", "))
}

/// `waiting_for` of a step without room for its sandbox.
pub fn sandbox_capacity(step_id: StepId, since: &str) -> Value {
    json!({
        "kind": WaitKind::SandboxCapacity.as_str(),
        "step_id": step_id,
        "since": since,
        "detail": "every place for a tool's sandbox is taken",
    })
}

/// Whether a stored `waiting_for` is one for a sandbox.
pub fn is_sandbox_capacity(waiting_for: &Value) -> bool {
    waiting_for.get("kind").and_then(Value::as_str) == Some(WaitKind::SandboxCapacity.as_str())
}

/// The step of a stored `effect_unknown`.
pub fn unknown_step(waiting_for: &Value) -> Option<StepId> {
    let is_unknown = waiting_for.get("kind")?.as_str()? == WaitKind::EffectUnknown.as_str();
    let id = waiting_for.get("step_id")?.as_str()?.parse().ok()?;
    is_unknown.then_some(StepId(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn the_step_of_an_unknown_effect_is_found_again_and_of_nothing_else() {
        let id = StepId(Uuid::from_u128(5));
        let stored = effect_unknown(id, ("connector", &json!({"a": 1})), 3, "the worker was lost");
        assert_eq!(unknown_step(&stored), Some(id));
        assert_eq!(unknown_step(&waiting(WaitKind::User, "which?")), None);
        assert_eq!(unknown_step(&Value::Null), None);
    }
}
