//! The tools: names, inputs, effects, credits, and how a call becomes a result.
//!
//! A failure is one of two kinds: told to the model as a result ([`ToolError::ToModel`]) or, when our own machinery failed,
//! a reason to try the job again ([`ToolError::Retry`]). A call that is stopped is neither.

pub(crate) mod ask_user;
mod code;
mod files;
mod message;
mod router;
mod shell;

pub use router::{Call, Router, specs};

use crate::ports::{SandboxError, WorkspaceError};
use domain::ToolResult;
use domain::storable::holds_nul;
use serde_json::Value;

/// Default and largest time limit of `shell` and `code`, in seconds.
pub const DEFAULT_TIMEOUT_SECONDS: u64 = 300;
pub const MAX_TIMEOUT_SECONDS: u64 = 3600;
/// Where the workspace is mounted for `shell` and `code`.
pub const WORKSPACE_DIR: &str = "/workspace";

/// Why a tool gave no success.
#[derive(Debug)]
pub enum ToolError {
    /// The result to store and to tell the model.
    ToModel(Box<ToolResult>),
    /// Storage or sandbox machinery failed and nothing was begun; another attempt of the job may succeed.
    Retry(String),
    /// The call was begun and its answer is lost; it may have taken effect.
    Unknown(String),
    /// The call was stopped.
    Cancelled,
}

impl ToolError {
    fn to_model(error: impl Into<String>, credits: f64) -> Self {
        Self::ToModel(Box::new(ToolResult::failed(error, credits)))
    }

    fn invalid_input(fault: impl std::fmt::Display) -> Self {
        Self::to_model(format!("Invalid input: {fault}"), 0.0)
    }

    /// A workspace failure of a tool that costs `credits` once it really ran.
    fn workspace(error: WorkspaceError, credits: f64) -> Self {
        let text = error.to_string();
        match error {
            WorkspaceError::Storage(_) => Self::Retry(text),
            WorkspaceError::InvalidPath(_) | WorkspaceError::NotConfigured { .. } => {
                Self::to_model(text, 0.0)
            }
            WorkspaceError::NotFound(_) | WorkspaceError::NotUtf8(_) | WorkspaceError::LimitExceeded => {
                Self::to_model(text, credits)
            }
        }
    }

    fn sandbox(error: SandboxError, credits: f64) -> Self {
        let text = error.to_string();
        match error {
            SandboxError::Unavailable(_) | SandboxError::InvalidInput(_) => Self::to_model(text, 0.0),
            SandboxError::Workspace(error) => Self::workspace(error, credits),
            SandboxError::Failed(_) => Self::Retry(text),
            SandboxError::Cancelled => Self::Cancelled,
        }
    }
}

/// The result of a tool whose whole effect lies in what is stored of the run; nothing for one that acts outside of it.
pub(crate) fn result_within(tool_name: &str, tool_input: &Value) -> Option<ToolResult> {
    if tool_name != "message" {
        return None;
    }
    match message::run(tool_input) {
        Ok(result) => Some(result),
        Err(ToolError::ToModel(result)) => Some(*result),
        Err(_) => None,
    }
}

/// Why a call cannot be made with this input: it holds U+0000, which the store would have to alter. Said by the fresh reply,
/// since what is stored does not show it any more.
pub(crate) fn unstorable(tool_name: &str, tool_input: &Value) -> Option<String> {
    let path = match tool_name {
        "file_read" | "file_write" => tool_input["filepath"].as_str(),
        "file_list" => tool_input["dirpath"].as_str(),
        _ => None,
    };
    if let Some(path) = path.filter(|path| path.contains('\0')) {
        return Some(WorkspaceError::InvalidPath(path.to_owned()).to_string());
    }
    if !holds_nul(tool_input) {
        return None;
    }
    let member = tool_input.as_object().and_then(|members| {
        let mut members = members.iter();
        members.find(|(name, member)| name.contains('\0') || holds_nul(member))
    });
    let place = member.map_or("it", |(name, _)| name.as_str());
    Some(format!(
        "Invalid input: {place} holds U+0000, which cannot be stored; leave it out, or make that byte in the sandbox, for \
         example with printf '\\000' in shell"
    ))
}

/// Reads a tool's typed input.
fn input<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, ToolError> {
    domain::input::typed(value).map_err(ToolError::invalid_input)
}
