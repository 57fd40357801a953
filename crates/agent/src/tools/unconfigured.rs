//! `search`, `browser` and `connector`: known tools that this build cannot carry out. Wrong input is refused as by any
//! other tool; a good call is answered by naming the settings they will need, and costs nothing.

use domain::ToolResult;
use serde_json::Value;

const BROWSER_ACTIONS: [&str; 6] = ["navigate", "click", "type", "screenshot", "extract", "execute_js"];
const GITHUB_OPERATIONS: [&str; 7] = [
    "get_repo",
    "list_issues",
    "get_issue",
    "create_issue",
    "comment_issue",
    "list_pull_requests",
    "get_file",
];
const LINEAR_OPERATIONS: [&str; 5] = [
    "list_teams",
    "list_issues",
    "get_issue",
    "create_issue",
    "comment_issue",
];
const SLACK_OPERATIONS: [&str; 3] = ["list_channels", "list_messages", "post_message"];

pub(super) fn answer(tool: &str, input: &Value) -> ToolResult {
    let settings = match tool {
        "search" => search(input),
        "browser" => browser(input),
        _ => connector(input),
    };
    let error = settings.map_or_else(
        |fault| fault,
        |settings| format!("{tool} is not configured: set {settings}"),
    );
    ToolResult::failed(error, 0.0)
}

fn search(input: &Value) -> Result<&'static str, String> {
    text(input, "query")?;
    Ok("TAVILY_API_KEY, SERPER_API_KEY or BRAVE_API_KEY")
}

fn browser(input: &Value) -> Result<&'static str, String> {
    let action = text(input, "action")?;
    if !BROWSER_ACTIONS.contains(&action) {
        return Err(one_of("action", &BROWSER_ACTIONS));
    }
    Ok("BROWSER_CDP_URL")
}

fn connector(input: &Value) -> Result<&'static str, String> {
    let (setting, operations): (_, &[&str]) = match text(input, "connector_type")? {
        "github" => ("GITHUB_TOKEN", &GITHUB_OPERATIONS),
        "linear" => ("LINEAR_API_KEY", &LINEAR_OPERATIONS),
        "slack" => ("SLACK_BOT_TOKEN", &SLACK_OPERATIONS),
        _ => return Err(one_of("connector_type", &["github", "linear", "slack"])),
    };
    let operation = text(input, "operation")?;
    if !operations.contains(&operation) {
        return Err(format!("Unknown operation: {operation}"));
    }
    Ok(setting)
}

fn text<'a>(input: &'a Value, field: &str) -> Result<&'a str, String> {
    match input.get(field) {
        None | Some(Value::Null) => Err(format!("Invalid input: missing field `{field}`")),
        Some(Value::String(text)) if text.trim().is_empty() => {
            Err(format!("Invalid input: {field} cannot be empty"))
        }
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("Invalid input: {field} must be text")),
    }
}

fn one_of(field: &str, allowed: &[&str]) -> String {
    format!("Invalid input: {field} must be one of {}", allowed.join(", "))
}

/// The connector operations that change nothing.
pub(super) fn only_reads(input: &Value) -> bool {
    let operation = input.get("operation").and_then(Value::as_str).unwrap_or_default();
    operation.starts_with("get_") || operation.starts_with("list_")
}

#[cfg(test)]
mod tests {
    use super::answer;
    use serde_json::json;

    #[test]
    fn wrong_input_is_refused_before_a_missing_setting_is_named() {
        let error = |tool: &str, input| answer(tool, &input).error.unwrap_or_default();
        assert_eq!(error("search", json!({})), "Invalid input: missing field `query`");
        assert!(
            error("search", json!({"query": "x"}))
                .starts_with("search is not configured: set TAVILY_API_KEY")
        );
        assert!(
            error("browser", json!({"action": "fly"})).starts_with("Invalid input: action must be one of")
        );
        assert_eq!(
            error("browser", json!({"action": "click"})),
            "browser is not configured: set BROWSER_CDP_URL"
        );
        let call = |kind: &str, operation: &str| json!({"connector_type": kind, "operation": operation});
        assert!(error("connector", call("foo", "get_repo")).starts_with("Invalid input: connector_type"));
        assert_eq!(
            error("connector", call("github", "nope")),
            "Unknown operation: nope"
        );
        assert_eq!(
            error("connector", call("slack", "post_message")),
            "connector is not configured: set SLACK_BOT_TOKEN"
        );
    }
}
