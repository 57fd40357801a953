//! Whether a call carries out what nobody but the run knows.

use serde_json::Value;

/// Whether a call says something that stands in none of the `trusted` texts and, if it is an address, in no `output` either.
pub fn says_new(tool_input: &Value, trusted: &[&str], outputs: &[&Value]) -> bool {
    let Value::Object(members) = tool_input else {
        return leaf_is_new(tool_input, trusted, outputs);
    };
    members
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "action" | "operation"))
        .any(|(_, value)| leaf_is_new(value, trusted, outputs))
}

fn leaf_is_new(value: &Value, trusted: &[&str], outputs: &[&Value]) -> bool {
    match value {
        Value::String(text) => {
            let is_address = text.starts_with("http://") || text.starts_with("https://");
            let said = trusted.iter().any(|said| said.contains(text.as_str()));
            let given = || is_address && outputs.iter().any(|output| holds(output, text));
            !said && !given()
        }
        Value::Array(items) => items.iter().any(|item| leaf_is_new(item, trusted, outputs)),
        Value::Object(members) => members.iter().any(|(name, item)| {
            !trusted.iter().any(|said| said.contains(name.as_str())) || leaf_is_new(item, trusted, outputs)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(held) => held.contains(text),
        Value::Array(items) => items.iter().any(|item| holds(item, text)),
        Value::Object(members) => members.values().any(|item| holds(item, text)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
