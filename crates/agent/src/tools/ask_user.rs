//! `ask_user`: a question whose answer is the call's result. The driver asks; nothing is called.

use super::{ToolError, input};
use domain::ToolResult;
use serde::Deserialize;
use serde_json::{Value, json};

/// The tool's name.
pub(crate) const ASK_USER: &str = "ask_user";

/// What is asked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Question {
    #[serde(rename = "question")]
    pub(crate) asked: String,
    #[serde(default)]
    pub(crate) options: Vec<String>,
    #[serde(default)]
    pub(crate) schema: Option<Value>,
}

impl Question {
    /// As the user reads it.
    pub(crate) fn text(&self) -> String {
        if self.options.is_empty() {
            return self.asked.clone();
        }
        format!("{}\nOptions: {}", self.asked, self.options.join(", "))
    }
}

/// The question of a call, when it is one.
pub(crate) fn question(value: &Value) -> Option<Question> {
    input::<Question>(value)
        .ok()
        .filter(|asked| !asked.asked.trim().is_empty())
}

/// The result once it is answered.
pub(crate) fn answered(text: &str) -> ToolResult {
    ToolResult::ok(json!({"answer": text}), 0.0)
}

/// A call that cannot be asked.
pub(super) fn unanswered(value: &Value) -> Result<ToolResult, ToolError> {
    input::<Question>(value)?;
    Err(ToolError::invalid_input("question cannot be empty"))
}
