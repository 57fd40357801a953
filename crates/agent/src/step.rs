//! What a turn asks for and what a step leaves: pure pieces of the driver.

use crate::conversation::TURN_SYSTEM;
use crate::planner::TEMPERATURE;
use crate::ports::{ChatMessage, ModelRequest, Purpose, ToolSpec};
use crate::snapshot::{Snapshot, StoredStep, assistant_message, step_id};
use crate::supervisor::DueTool;
use domain::change::{Change, NewStep};
use domain::ids::{RunId, StepId};
use domain::run::StepStatus;
use domain::waiting::effect_unknown;
use domain::{Effect, LogType, NewEvent, RunStatus, ToolResult};
use serde_json::{Value, json};

/// A turn asks for at most this many tokens.
pub(crate) const TURN_MAX_TOKENS: u32 = 2048;

pub(crate) fn turn_request(
    snapshot: &Snapshot,
    number: u32,
    messages: Vec<ChatMessage>,
    tools: Vec<ToolSpec>,
) -> ModelRequest {
    ModelRequest {
        run_id: snapshot.run_id,
        purpose: Purpose::Turn { number },
        attempt: snapshot.attempt,
        prompt: snapshot.prompt.clone(),
        system: TURN_SYSTEM.to_owned(),
        messages,
        tools,
        max_tokens: TURN_MAX_TOKENS,
        temperature: TEMPERATURE,
    }
}

/// Records the step as running, in memory and as the change to commit.
pub(crate) fn start_step(snapshot: &mut Snapshot, due: &DueTool, effect: Effect) -> Change {
    let id = step_id(snapshot.run_id, due.turn, due.action);
    let (tool_name, tool_input) = called(due);
    let status = StepStatus::Running;
    snapshot.steps.push(StoredStep {
        id,
        turn: due.turn,
        action: due.action,
        status,
        result: None,
        started_here: true,
    });
    Change::StepStarted(NewStep {
        id,
        phase_number: due.phase,
        turn: due.turn,
        action: due.action,
        tool_name,
        tool_input,
        effect,
    })
}

pub(crate) fn called(due: &DueTool) -> (String, Value) {
    let name = due.call.tool_name.clone().unwrap_or_default();
    (name, due.call.tool_input.clone().unwrap_or_else(|| json!({})))
}

/// The key of a step's call, as the store keeps it.
pub(crate) fn idempotency_key(run_id: RunId, due: &DueTool) -> String {
    format!("{run_id}:{}:{}", due.turn, due.action)
}

/// The run asks its user what became of a call.
pub(crate) fn ask_outcome(step_id: StepId, due: &DueTool, epoch: i64, reason: &str) -> Vec<Change> {
    let (tool_name, tool_input) = called(due);
    let waiting_for = effect_unknown(step_id, (&tool_name, &tool_input), epoch, reason);
    let metadata = json!({"event": "effect_unknown", "step_id": step_id, "tool_name": tool_name});
    let text = format!("Outcome of {tool_name} unknown: {reason}. Say what became of it to go on");
    vec![
        Change::StepUnknown { step_id },
        Change::Log(NewEvent::new(LogType::Warning, text, metadata)),
        Change::Waiting(Some(waiting_for)),
        Change::Status {
            to: RunStatus::WaitingUser,
            error: None,
        },
    ]
}

/// The result of a call that nobody will ask about.
pub(crate) fn outcome_unknown(reason: &str) -> ToolResult {
    ToolResult::failed(format!("Outcome unknown: {reason}"), 0.0)
}

/// The `message` tool leaves an assistant message.
pub(crate) fn said_to_user(snapshot: &Snapshot, due: &DueTool, result: &ToolResult) -> Option<Change> {
    if due.call.tool_name.as_deref() != Some("message") || !result.success {
        return None;
    }
    let text = result.output.get("message").and_then(Value::as_str)?;
    Some(Change::MessageAdded(assistant_message(
        snapshot.run_id,
        due.turn,
        due.action,
        text,
    )))
}
