//! `search`, `browser` and `connector`: known tools that this build cannot carry out. They answer so, naming the settings
//! they will need, and cost nothing.

use domain::ToolResult;
use serde_json::Value;

pub(super) fn answer(tool: &str, input: &Value) -> ToolResult {
    let settings = match tool {
        "search" => "TAVILY_API_KEY, SERPER_API_KEY or BRAVE_API_KEY",
        "browser" => "BROWSER_CDP_URL",
        _ => match input.get("connector_type").and_then(Value::as_str) {
            Some("github") => "GITHUB_TOKEN",
            Some("linear") => "LINEAR_API_KEY",
            Some("slack") => "SLACK_BOT_TOKEN",
            _ => "GITHUB_TOKEN, LINEAR_API_KEY or SLACK_BOT_TOKEN",
        },
    };
    ToolResult::failed(format!("{tool} is not configured: set {settings}"), 0.0)
}

/// The connector operations that change nothing.
pub(super) fn only_reads(input: &Value) -> bool {
    let operation = input.get("operation").and_then(Value::as_str).unwrap_or_default();
    operation.starts_with("get_") || operation.starts_with("list_")
}
