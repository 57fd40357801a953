//! Typed changes of a run. The authority turns each into rows and events, all of one commit in one transaction.
//!
//! | change | rows | event |
//! | --- | --- | --- |
//! | `Log` | – | the given one |
//! | `Status` | `agent_runs` | `state_transition`; a final one is followed by `complete` |
//! | `PlanStored` | `agent_runs.plan`, `plan_version`, `current_phase` = 1 | `info` with `event` = `plan` |
//! | `PlanRevised` | `agent_runs.plan`, `plan_version`; the phase stays | `info` with `event` = `replan`, reason and difference |
//! | `TurnStored` | `agent_turns`, `token_records` | `info` `Agent reasoning: …` per reasoning |
//! | `CallBilled` | `token_records` | none |
//! | `BudgetSet` | `agent_runs.metadata.budget` | none; the caller logs what changed |
//! | `MessageAdded` | `agent_messages` | `info` with `event` = `message`, unless `silent` |
//! | `InputRequested` | `agent_messages` (assistant) | `user_input_required` |
//! | `StepStarted` | `agent_steps` (running) | `info` with `event` = `tool_call` |
//! | `StepRestarted` | `agent_steps.retry_count` + 1 | none: the call is already in the log |
//! | `StepWaiting` | `agent_steps` -> pending, `metadata.waiting` = `quota`, `agent_runs.waiting_for` | `warning` `Waiting for tool capacity`, once per step |
//! | `StepAdmitted` | `agent_steps` -> running, no `metadata.waiting` | none |
//! | `StepSettled` | `agent_steps`, counters, `agent_artifacts` | `tool_success` or `tool_error`, then `output` per artifact |
//! | `StepReset` | `agent_steps` -> pending: nothing has happened, it may begin (again) | none |
//! | `StepUnknown` | `agent_steps.metadata.outcome` = `unknown` | none; the caller logs why |
//! | `CancelRunningSteps` | every running step -> cancelled | `tool_error` `Cancelled` per step |
//! | `PhaseAdvanced` | `agent_runs.current_phase` | `phase_advance` |
//! | `InterruptOpened` | `agent_interrupts` (open) | `warning` with `event` = `approval_requested` |
//! | `InterruptClosed` | `agent_interrupts` -> resolved, expired or cancelled | none; the caller logs it |
//! | `Waiting` | `agent_runs.waiting_for` | none |
//! | `WorkspaceCopied` | `agent_runs.metadata.workspace_copied` | none; the caller logs what was copied |

use crate::action::{Turn, Usage};
use crate::budget::Budget;
use crate::event::NewEvent;
use crate::ids::{InterruptId, MessageId, StepId};
use crate::interrupt::{InterruptDecision, InterruptStatus, NewInterrupt};
use crate::plan::{Plan, PlanDifference};
use crate::run::StepStatus;
use crate::status::RunStatus;
use crate::tool::{Effect, ToolResult};
use serde_json::Value;
use uuid::Uuid;

/// Why a run ended otherwise than completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunError {
    /// Stable word for programs, for example `max_attempts`, `planning_failed`.
    pub code: String,
    /// Sentence for people; the `message` of `complete`.
    pub message: String,
}

impl RunError {
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }
}

/// A message to store.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMessage {
    pub id: MessageId,
    /// `user`, `assistant`, `system` or `tool`.
    pub role: &'static str,
    pub content: String,
    pub step_id: Option<StepId>,
    /// Stored without an event of its own (tool results already have one).
    pub silent: bool,
}

/// A step to store as running.
#[derive(Debug, Clone, PartialEq)]
pub struct NewStep {
    pub id: StepId,
    pub phase_number: u32,
    /// Turn and place in the turn (from 0) that asked for it: the step's identity over take-overs.
    pub turn: u32,
    pub action: u32,
    pub tool_name: String,
    pub tool_input: Value,
    pub effect: Effect,
}

/// A file made by a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewArtifact {
    pub id: Uuid,
    pub filename: String,
    /// Relative to the workspace root.
    pub file_path: String,
    /// MIME type.
    pub file_type: String,
    pub file_size: i64,
    /// SHA-256 as hex.
    pub content_hash: String,
    pub storage_bucket: String,
    pub storage_key: String,
}

/// One typed change of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Log(NewEvent),
    Status {
        to: RunStatus,
        error: Option<RunError>,
    },
    PlanStored {
        plan: Plan,
    },
    /// The rest of the plan was changed on the way.
    PlanRevised {
        plan: Plan,
        reason: String,
        difference: PlanDifference,
    },
    TurnStored {
        turn: Turn,
        model: String,
        provider: String,
        usage: Usage,
    },
    /// A try of a model call that failed and used tokens all the same.
    CallBilled {
        /// Names the try: no other call of the run has it.
        key: String,
        model: String,
        provider: String,
        usage: Usage,
    },
    /// The caps of the run from now on.
    BudgetSet(Budget),
    MessageAdded(NewMessage),
    InputRequested {
        message_id: MessageId,
        question: String,
    },
    StepStarted(NewStep),
    StepRestarted {
        step_id: StepId,
    },
    /// There is no room for the step's sandbox: it has not begun.
    StepWaiting {
        step_id: StepId,
    },
    /// There is room now, it begins.
    StepAdmitted {
        step_id: StepId,
    },
    StepSettled {
        step_id: StepId,
        status: StepStatus,
        result: ToolResult,
        duration_ms: i64,
    },
    /// The step has had no effect, or may have it again: a later start asks nobody.
    StepReset {
        step_id: StepId,
    },
    /// Whether the call of a running step took effect is not known; only its user can say.
    StepUnknown {
        step_id: StepId,
    },
    CancelRunningSteps,
    PhaseAdvanced {
        from: u32,
        to: u32,
    },
    /// A person is asked. A question has an event of its own (`InputRequested`), the others say it here.
    InterruptOpened(Box<NewInterrupt>),
    /// It is decided, or nobody will decide it any more.
    InterruptClosed {
        id: InterruptId,
        status: InterruptStatus,
        decision: Option<InterruptDecision>,
        response: Value,
    },
    Waiting(Option<Value>),
    /// A retry has got the files of the run it repeats, or there are none to be had: it is not tried again.
    WorkspaceCopied,
}

impl Change {
    /// A run that was paused in the middle of a step or a model call still takes what came of it, but begins nothing
    /// and does not move on.
    pub const fn allowed_while_paused(&self) -> bool {
        match self {
            Self::Log(_)
            | Self::TurnStored { .. }
            | Self::CallBilled { .. }
            | Self::BudgetSet(_)
            | Self::MessageAdded(_)
            | Self::StepSettled { .. }
            | Self::StepReset { .. }
            | Self::StepUnknown { .. }
            | Self::WorkspaceCopied
            | Self::PlanRevised { .. }
            | Self::PhaseAdvanced { .. } => true,
            Self::Status { .. }
            | Self::PlanStored { .. }
            | Self::InputRequested { .. }
            | Self::StepStarted(_)
            | Self::StepRestarted { .. }
            | Self::StepWaiting { .. }
            | Self::StepAdmitted { .. }
            | Self::CancelRunningSteps
            | Self::InterruptOpened(_)
            | Self::InterruptClosed { .. }
            | Self::Waiting(_) => false,
        }
    }
}
