//! Foreign texts before they are stored: Postgres takes no zero character, neither in texts nor in JSON.

use agent::tools::ToolError;
use domain::ToolResult;
use serde_json::{Map, Value};

pub(crate) fn answered(answered: Result<ToolResult, ToolError>) -> Result<ToolResult, ToolError> {
    match answered {
        Ok(result) => Ok(cleaned(result)),
        Err(ToolError::ToModel(result)) => Err(ToolError::ToModel(Box::new(cleaned(*result)))),
        Err(ToolError::Retry(said)) => Err(ToolError::Retry(text(said))),
        Err(ToolError::Unknown(said)) => Err(ToolError::Unknown(text(said))),
        Err(ToolError::Cancelled) => Err(ToolError::Cancelled),
    }
}

pub(crate) fn cleaned(result: ToolResult) -> ToolResult {
    ToolResult {
        output: value(result.output),
        error: result.error.map(text),
        memory: result.memory.into_iter().map(value).collect(),
        ..result
    }
}

fn text(text: String) -> String {
    if text.contains('\0') {
        return text.replace('\0', "\u{FFFD}");
    }
    text
}

fn value(given: Value) -> Value {
    match given {
        Value::String(string) => Value::String(text(string)),
        Value::Array(list) => Value::Array(list.into_iter().map(value).collect()),
        Value::Object(members) => {
            let clean = members
                .into_iter()
                .map(|(name, member)| (text(name), value(member)));
            Value::Object(clean.collect::<Map<_, _>>())
        }
        other => other,
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
