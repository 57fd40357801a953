//! What the tool `browser` takes. Wrong input is refused before anything is started.

use serde_json::Value;
use std::time::Duration;

const ACTIONS: [&str; 6] = ["navigate", "click", "type", "screenshot", "extract", "execute_js"];
const DEFAULT_LIMIT_MS: u64 = 30_000;
const LONGEST_LIMIT_MS: u64 = 300_000;
/// Longest selector, script or text.
const LONGEST_TEXT: usize = 256 * 1024;

/// One action on the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Navigate { url: String },
    Click { selector: String },
    Type { selector: String, text: String },
    Screenshot { selector: Option<String> },
    Extract { selector: Option<String> },
    ExecuteJs { javascript: String },
}

/// A checked call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    pub action: Action,
    /// Opened first, for another action than `navigate`.
    pub url: Option<String>,
    pub limit: Duration,
}

impl Action {
    /// Whether it may change something at the site.
    pub(super) fn acts(&self) -> bool {
        !matches!(self, Self::Screenshot { .. } | Self::Extract { .. })
    }
}

/// Reads a call.
///
/// # Errors
/// The whole sentence for the model.
pub(super) fn parse(input: &Value) -> Result<Input, String> {
    let action = needed(input, "action")?;
    if !ACTIONS.contains(&action) {
        return Err(invalid(&format!("action must be one of {}", ACTIONS.join(", "))));
    }
    let limit = limit(input)?;
    let owned = |field| Ok::<_, String>(needed(input, field)?.to_owned());
    let selector = || Ok::<_, String>(optional(input, "selector")?.map(str::to_owned));
    let action = match action {
        "navigate" => Action::Navigate { url: owned("url")? },
        "click" => Action::Click {
            selector: owned("selector")?,
        },
        "type" => Action::Type {
            selector: owned("selector")?,
            text: text_to_type(input)?,
        },
        "screenshot" => Action::Screenshot {
            selector: selector()?,
        },
        "extract" => Action::Extract {
            selector: selector()?,
        },
        _ => Action::ExecuteJs {
            javascript: owned("javascript")?,
        },
    };
    let url = match action {
        Action::Navigate { .. } => None,
        _ => optional(input, "url")?.map(str::to_owned),
    };
    Ok(Input { action, url, limit })
}

/// Whether a call is one of the actions that only look.
pub(super) fn only_looks(input: &Value) -> bool {
    matches!(
        input.get("action").and_then(Value::as_str),
        Some("screenshot" | "extract")
    ) && input.get("url").is_none_or(Value::is_null)
}

fn limit(input: &Value) -> Result<Duration, String> {
    let ms = match input.get("timeout") {
        None | Some(Value::Null) => DEFAULT_LIMIT_MS,
        Some(value) => value
            .as_u64()
            .filter(|ms| (1..=LONGEST_LIMIT_MS).contains(ms))
            .ok_or_else(|| invalid(&format!("timeout must be 1 to {LONGEST_LIMIT_MS} milliseconds")))?,
    };
    Ok(Duration::from_millis(ms))
}

/// Empty text empties the field.
fn text_to_type(input: &Value) -> Result<String, String> {
    match input.get("text") {
        Some(Value::String(text)) if text.len() <= LONGEST_TEXT => Ok(text.clone()),
        Some(Value::String(_)) => Err(invalid("text is too long")),
        None | Some(Value::Null) => Err(invalid("text is missing")),
        Some(_) => Err(invalid("text must be text")),
    }
}

fn needed<'a>(input: &'a Value, field: &str) -> Result<&'a str, String> {
    optional(input, field)?.ok_or_else(|| invalid(&format!("{field} is missing")))
}

fn optional<'a>(input: &'a Value, field: &str) -> Result<Option<&'a str>, String> {
    match input.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => {
            Err(invalid(&format!("{field} cannot be empty")))
        }
        Some(Value::String(text)) if text.len() > LONGEST_TEXT => {
            Err(invalid(&format!("{field} is too long")))
        }
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(invalid(&format!("{field} must be text"))),
    }
}

fn invalid(fault: &str) -> String {
    format!("Invalid input: {fault}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_action_says_what_it_misses() {
        for (input, error) in [
            (json!({}), "Invalid input: action is missing"),
            (json!({"action": 1}), "Invalid input: action must be text"),
            (json!({"action": " "}), "Invalid input: action cannot be empty"),
            (json!({"action": "navigate"}), "Invalid input: url is missing"),
            (json!({"action": "click"}), "Invalid input: selector is missing"),
            (
                json!({"action": "type", "selector": "a"}),
                "Invalid input: text is missing",
            ),
            (
                json!({"action": "execute_js"}),
                "Invalid input: javascript is missing",
            ),
            (
                json!({"action": "extract", "timeout": 0}),
                "Invalid input: timeout must be 1 to 300000 milliseconds",
            ),
            (
                json!({"action": "fly"}),
                "Invalid input: action must be one of navigate, click, type, screenshot, extract, execute_js",
            ),
        ] {
            assert_eq!(parse(&input).unwrap_err(), error, "{input}");
        }
    }

    #[test]
    fn a_good_call_has_the_default_limit() {
        let read = parse(&json!({"action": "type", "selector": "#a", "text": ""})).unwrap();
        assert_eq!(read.limit, Duration::from_secs(30));
        assert!(read.action.acts());
        assert!(only_looks(&json!({"action": "extract"})));
        assert!(!only_looks(&json!({"action": "extract", "url": "http://a/"})));
        assert!(!only_looks(&json!({"action": "click"})));
    }
}
