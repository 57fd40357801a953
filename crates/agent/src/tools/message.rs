//! `message`: say something to the user. The driver stores it as an assistant message.

use super::{ToolError, input};
use domain::ToolResult;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Input {
    message: String,
}

pub(super) fn run(value: &Value) -> Result<ToolResult, ToolError> {
    let Input { message } = input(value)?;
    Ok(ToolResult::ok(json!({"sent": true, "message": message}), 0.0))
}
