//! Foreign texts before they are stored: Postgres takes no zero character, neither in texts nor in JSON.

use agent::tools::ToolError;
use domain::{Storable as _, ToolResult};

pub(crate) fn answered(answered: Result<ToolResult, ToolError>) -> Result<ToolResult, ToolError> {
    match answered {
        Ok(result) => Ok(result.storable()),
        Err(ToolError::ToModel(result)) => Err(ToolError::ToModel(Box::new(result.storable()))),
        Err(ToolError::Retry(said)) => Err(ToolError::Retry(said.storable())),
        Err(ToolError::Unknown(said)) => Err(ToolError::Unknown(said.storable())),
        Err(ToolError::Cancelled) => Err(ToolError::Cancelled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_zero_character_is_left_anywhere() {
        let output = json!({"a\0": ["b\0", {"c": "\0"}], "d": 1});
        let result = ToolResult {
            error: Some("e\0".to_owned()),
            ..ToolResult::ok(output, 1.0)
        };
        let clean = answered(Ok(result)).unwrap();
        assert_eq!(
            clean.output,
            json!({"a\u{fffd}": ["b\u{fffd}", {"c": "\u{fffd}"}], "d": 1})
        );
        assert_eq!(clean.error.as_deref(), Some("e\u{fffd}"));
        let lost = answered(Err(ToolError::Unknown("x\0".to_owned())));
        assert!(matches!(lost, Err(ToolError::Unknown(said)) if said == "x\u{fffd}"));
    }
}
