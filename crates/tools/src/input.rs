//! Reading a tool's input; a fault is told as `Invalid input: …`.

use domain::ToolResult;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The result of a call that came to nothing.
pub(crate) type Refusal = Box<ToolResult>;

pub(crate) fn refused(error: impl Into<String>, credits: f64) -> Refusal {
    Box::new(ToolResult::failed(error, credits))
}

/// A call that never went out: it costs nothing.
pub(crate) fn invalid(fault: impl std::fmt::Display) -> Refusal {
    refused(format!("Invalid input: {fault}"), 0.0)
}

/// A text that must be there and say something.
pub(crate) fn text<'a>(input: &'a Value, field: &str) -> Result<&'a str, Refusal> {
    match input.get(field) {
        None | Some(Value::Null) => Err(invalid(format!("{field} is missing"))),
        Some(Value::String(text)) if text.trim().is_empty() => {
            Err(invalid(format!("{field} cannot be empty")))
        }
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(invalid(format!("{field} must be text"))),
    }
}

pub(crate) fn one_of(field: &str, allowed: &[&str]) -> Refusal {
    invalid(format!("{field} must be one of {}", allowed.join(", ")))
}

pub(crate) fn typed<T: DeserializeOwned>(input: &Value) -> Result<T, Refusal> {
    domain::input::typed(input).map_err(invalid)
}

/// What must be set before a tool works.
pub(crate) fn not_configured(tool: &str, settings: &str) -> Refusal {
    refused(format!("{tool} is not configured: set {settings}"), 0.0)
}
