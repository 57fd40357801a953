//! `browser` where none can be had: wrong input is refused as by any other tool, a good call names the setting.

use crate::input::{not_configured, one_of, text};
use domain::ToolResult;
use serde_json::Value;

const BROWSER_ACTIONS: [&str; 6] = ["navigate", "click", "type", "screenshot", "extract", "execute_js"];

pub(crate) fn browser(input: &Value) -> ToolResult {
    let refusal = match text(input, "action") {
        Err(fault) => fault,
        Ok(action) if !BROWSER_ACTIONS.contains(&action) => one_of("action", &BROWSER_ACTIONS),
        Ok(_) => not_configured("browser", "BROWSER_CDP_URL"),
    };
    *refusal
}

#[cfg(test)]
mod tests {
    use super::browser;
    use serde_json::json;

    #[test]
    fn wrong_input_is_refused_before_the_missing_setting_is_named() {
        let error = |input| browser(&input).error.unwrap_or_default();
        assert!(error(json!({"action": "fly"})).starts_with("Invalid input: action must be one of"));
        assert_eq!(error(json!({})), "Invalid input: action is missing");
        assert_eq!(
            error(json!({"action": "click"})),
            "browser is not configured: set BROWSER_CDP_URL"
        );
    }
}
