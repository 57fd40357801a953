//! From a prompt to a plan: one model call, and at most two more that name the fault.

use crate::conversation::PLANNER_SYSTEM;
use crate::parse::json_in;
use crate::ports::{ChatMessage, ModelReply, ModelRequest, Purpose};
use crate::snapshot::Snapshot;
use domain::{Plan, Storable as _, Usage};
use serde_json::{Value, json};

/// A bad plan is asked for again this often.
pub const MAX_REPAIRS: u32 = 2;
/// Planning asks for at most this many tokens.
pub const PLAN_MAX_TOKENS: u32 = 4096;
/// Sampling temperature of every call.
pub const TEMPERATURE: f32 = 0.7;

/// A plan, with the reply it came from and the tokens of that one; whoever asks stores those of the tries before.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// `Err`: why the last try was refused.
    pub plan: Result<Plan, String>,
    pub raw: Value,
    pub usage: Usage,
    pub model: String,
    pub provider: String,
}

/// Whoever makes the planner's model calls.
pub trait Asks: Sync {
    /// Why no reply came.
    type Stop: Send;
    fn ask(&self, request: &ModelRequest) -> impl Future<Output = Result<ModelReply, Self::Stop>> + Send;
}

/// Asks for a plan.
pub async fn plan<A: Asks>(model: &A, snapshot: &Snapshot) -> Result<Planned, A::Stop> {
    let mut messages = vec![ChatMessage::User(snapshot.prompt.clone())];
    let mut repairs = 0;
    loop {
        let reply = model.ask(&request(snapshot, repairs, messages.clone())).await?;
        let text = reply.text.clone().unwrap_or_default().storable();
        let plan = read_plan(&text);
        if plan.is_ok() || repairs == MAX_REPAIRS {
            let raw = json!({"text": text, "tool_calls": []});
            return Ok(Planned {
                plan,
                raw,
                usage: reply.usage,
                model: reply.model,
                provider: reply.provider,
            });
        }
        if let Err(fault) = plan {
            messages.push(ChatMessage::Assistant {
                text: Some(text),
                tool_calls: vec![],
            });
            messages.push(ChatMessage::User(format!(
                "This plan cannot be used: {fault}. Send the corrected JSON."
            )));
        }
        repairs += 1;
    }
}

fn request(snapshot: &Snapshot, repairs: u32, messages: Vec<ChatMessage>) -> ModelRequest {
    ModelRequest {
        run_id: snapshot.run_id,
        purpose: Purpose::Plan { repairs },
        attempt: snapshot.attempt,
        prompt: snapshot.prompt.clone(),
        system: PLANNER_SYSTEM.to_owned(),
        messages,
        tools: vec![],
        max_tokens: PLAN_MAX_TOKENS,
        temperature: TEMPERATURE,
    }
}

fn read_plan(text: &str) -> Result<Plan, String> {
    let value = json_in(text).ok_or_else(|| "the reply holds no JSON object".to_owned())?;
    Plan::from_value(&value.storable()).map_err(|fault| fault.to_string())
}
