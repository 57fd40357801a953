//! What a worker knows of a run when it takes it: enough to start, and enough to go on after a lost worker.

use crate::gate::Gate;
use domain::change::NewMessage;
use domain::ids::{RunId, StepId, UserId};
use domain::run::StepStatus;
use domain::{Plan, RunStatus, ToolResult, Turn};
use uuid::Uuid;

/// A stored step, as far as going on needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredStep {
    pub id: StepId,
    pub turn: u32,
    /// Place in the turn, from 0.
    pub action: u32,
    pub status: StepStatus,
    /// Present when settled.
    pub result: Option<ToolResult>,
    /// Started by this drive; one that was not is run again after a lost worker.
    pub started_here: bool,
}

/// A message the user sent after the prompt, placed behind the turns that were stored before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserMessage {
    /// The number of the last turn stored before this message.
    pub after_turn: u32,
    pub content: String,
}

/// A run as read from the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub run_id: RunId,
    pub user_id: UserId,
    pub status: RunStatus,
    pub prompt: String,
    pub connector_ids: Vec<String>,
    pub plan: Option<Plan>,
    pub current_phase: u32,
    /// Turns 1, 2, … in order; the planner's reply (number 0) is not among them.
    pub turns: Vec<Turn>,
    pub steps: Vec<StoredStep>,
    pub user_messages: Vec<UserMessage>,
    /// What it may do without asking, and what it has asked.
    pub gate: Gate,
    /// The job's attempt, from 1.
    pub attempt: u32,
}

impl Snapshot {
    /// The stored step of a place in the script of turns.
    pub fn step(&self, turn: u32, action: u32) -> Option<&StoredStep> {
        // It is nearly always one of the last.
        self.steps
            .iter()
            .rfind(|step| step.turn == turn && step.action == action)
    }

    pub(crate) fn step_mut(&mut self, turn: u32, action: u32) -> Option<&mut StoredStep> {
        self.steps
            .iter_mut()
            .rfind(|step| step.turn == turn && step.action == action)
    }
}

/// Ids of what a run makes are derived from the place that makes them, so that doing it again gives the same id.
pub(crate) fn derived(run: RunId, what: &str, turn: u32, action: u32) -> Uuid {
    Uuid::new_v5(&run.0, format!("{what}:{turn}:{action}").as_bytes())
}

/// The id of the step at a place; the same after every take-over.
pub fn step_id(run: RunId, turn: u32, action: u32) -> StepId {
    StepId(derived(run, "step", turn, action))
}

/// An assistant message of a place.
pub fn assistant_message(run: RunId, turn: u32, action: u32, content: &str) -> NewMessage {
    NewMessage {
        id: derived(run, "message", turn, action).into(),
        role: "assistant",
        content: content.to_owned(),
        step_id: None,
        silent: false,
    }
}
