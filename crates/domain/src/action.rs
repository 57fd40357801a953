//! A model's reply, once understood: one turn of one or more actions.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an action asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionKind {
    /// Call a tool; its result goes back to the model.
    Tool,
    /// Say something to the user and go on.
    Message,
    /// The present phase is done; after the last one the run is completed.
    PhaseComplete,
    /// The whole task is done.
    TaskComplete,
    /// Ask the user and wait.
    RequestInput,
}

/// One action of a turn, in the stored form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Action {
    #[serde(rename = "type")]
    pub kind: ActionKind,
    #[serde(default)]
    pub tool_name: Option<String>,
    #[serde(default)]
    pub tool_input: Option<Value>,
    #[serde(default)]
    pub message: Option<String>,
    #[serde(default)]
    pub reasoning: Option<String>,
    /// The provider's id of a native tool call; pairs the result with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// Why the call is not carried out: its input could not be stored as the model gave it. The result's error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Tokens of one model call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub input_tokens: i64,
    pub output_tokens: i64,
    /// The provider did not say; counted at four characters a token.
    #[serde(default)]
    pub is_estimated: bool,
    /// Of the input: read from the provider's cache.
    #[serde(default)]
    pub cached_tokens: i64,
    /// Of the input: written into the provider's cache.
    #[serde(default)]
    pub cache_write_tokens: i64,
    /// Of the output: spent on thinking.
    #[serde(default)]
    pub reasoning_tokens: i64,
    /// Micro-dollars; nothing where no price is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_micros: Option<i64>,
}

impl Usage {
    pub const fn total(self) -> i64 {
        self.input_tokens + self.output_tokens
    }

    /// Both calls together; their cost is known when that of each is.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens + other.input_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
            is_estimated: self.is_estimated || other.is_estimated,
            cached_tokens: self.cached_tokens + other.cached_tokens,
            cache_write_tokens: self.cache_write_tokens + other.cache_write_tokens,
            reasoning_tokens: self.reasoning_tokens + other.reasoning_tokens,
            cost_micros: self
                .cost_micros
                .zip(other.cost_micros)
                .map(|(one, two)| one + two),
        }
    }
}

/// A stored reply of the model; asked for once per turn however often workers die.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// 1, 2, 3, … per run.
    pub number: u32,
    /// Empty when the reply held no valid action; `fault` then says why.
    pub actions: Vec<Action>,
    /// The reply as it came, for the next request's history.
    pub raw: Value,
    #[serde(default)]
    pub fault: Option<String>,
}
