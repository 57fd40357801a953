//! What a run asks a person, and what is answered. The members are named as AG-UI names them.

use super::schema::{Id, RunStatus, Time};
use serde_json::Value;
use utoipa::ToSchema;

/// What is asked.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum InterruptKindName {
    Tool,
    Plan,
    Question,
}

/// What kind of answer it takes.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum InterruptReason {
    ToolCall,
    Confirmation,
    InputRequired,
}

/// `status` of `GET …/interrupts`.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum InterruptsWanted {
    Open,
    All,
}

/// Where it stands.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum InterruptStatusName {
    Open,
    Resolved,
    Expired,
    Cancelled,
}

/// What a person may say.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum InterruptDecisionName {
    Approve,
    Edit,
    Reject,
    Answer,
}

/// Something a run asks a person.
#[derive(Debug, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct Interrupt {
    pub id: Id,
    pub run_id: Id,
    #[schema(inline)]
    pub kind: InterruptKindName,
    #[schema(inline)]
    pub reason: InterruptReason,
    /// For people; characters that are not seen are written out.
    pub message: String,
    /// The step the call will be.
    pub tool_call_id: Option<Id>,
    pub tool_name: Option<String>,
    /// Exactly what would be called; of a plan, the plan.
    pub tool_input: Option<Value>,
    /// Of the exact call.
    pub hash: Option<String>,
    /// `reads-untrusted`, `reads-private`, `acts-outside`.
    pub labels: Vec<String>,
    /// JSON Schema of the decision.
    #[schema(value_type = Object)]
    pub response_schema: Value,
    #[schema(inline)]
    pub status: InterruptStatusName,
    pub decision: Option<String>,
    pub created_at: Time,
    pub expires_at: Option<Time>,
    pub decided_at: Option<Time>,
    /// Why it is asked.
    pub detail: String,
    /// What belongs to the decision: `input`, `reason` or `text`.
    pub response: Option<Value>,
}

/// Answer of `GET …/interrupts`.
#[derive(Debug, ToSchema)]
pub struct InterruptsAnswer {
    pub success: bool,
    pub interrupts: Vec<Interrupt>,
}

/// Answer of `POST …/interrupts/{interrupt_id}`.
#[derive(Debug, ToSchema)]
pub struct DecidedAnswer {
    pub success: bool,
    pub interrupt: Interrupt,
    pub run_status: RunStatus,
}

/// `POST …/interrupts/{interrupt_id}`.
#[derive(Debug, ToSchema)]
pub struct DecideRequest {
    #[schema(inline)]
    pub decision: InterruptDecisionName,
    /// For `edit`: the input to call the tool with, or the whole plan.
    #[schema(value_type = Option<Object>)]
    pub input: Option<Value>,
    /// For `reject`: told to the model.
    pub reason: Option<String>,
    /// For `answer`.
    pub text: Option<String>,
    /// Of the call that was looked at; the decision is refused when it is another one.
    pub hash: Option<String>,
}
