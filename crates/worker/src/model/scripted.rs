//! The offline model (AA-84): replies from a script, no network, no clock but the sleeps a script asks for.
//!
//! The script is the prompt itself when it is a JSON object with `script`, else `LLM_SCRIPT_FILE`, else what
//! [`grammar`] reads in a plain prompt. The place in the script is the turn's number and nothing else, so it
//! survives retries, resumes and take-overs, and the same request always gets the same reply. Only the last words of a plain
//! prompt look at what became of the calls before.

mod grammar;
mod script;
mod steps;
mod words;

use super::{SetupError, answers, usage};
use agent::ports::{
    CallWatch, ChatMessage, Model, ModelError, ModelReply, ModelRequest, Purpose, StopReason, ToolUse,
};
use domain::Usage;
use script::{Extra, Script};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The provider's name in settings, logs and metrics.
pub const PROVIDER: &str = "scripted";
/// The model's name in logs, metrics and token records.
pub const MODEL: &str = "offline";

/// Of a failed call's error at most this many characters are repeated at the end.
const MAX_FAULT_CHARS: usize = 200;

/// A deterministic model that follows a script.
#[derive(Debug, Clone, Default)]
pub struct Scripted {
    file: Option<ScriptFile>,
}

#[derive(Debug, Clone)]
struct ScriptFile {
    path: String,
    script: Arc<Script>,
}

impl Scripted {
    /// Reads `LLM_SCRIPT_FILE` (JSON or YAML) once; prompts with a script of their own still win.
    pub fn from_file(path: &str) -> Result<Self, SetupError> {
        let fault = |reason: String| SetupError::ScriptFile {
            path: path.to_owned(),
            reason,
        };
        let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
        let value: Value = match serde_json::from_str(&text) {
            Ok(value) => value,
            Err(_) => serde_yaml_ng::from_str(&text).map_err(|error| fault(error.to_string()))?,
        };
        let script = Script::from_value(&value)
            .ok_or_else(|| fault("it holds no object with a list `script`".to_owned()))?;
        Ok(Self {
            file: Some(ScriptFile {
                path: path.to_owned(),
                script: Arc::new(script),
            }),
        })
    }

    /// One line for the first log line.
    pub fn describe(&self) -> String {
        match &self.file {
            Some(file) => format!("offline scripted model following {}", file.path),
            None => {
                "offline scripted model: no language model is called; prompts are read as plain instructions"
                    .to_owned()
            }
        }
    }

    fn script(&self, request: &ModelRequest) -> Arc<Script> {
        match (Script::from_prompt_json(&request.prompt), &self.file) {
            (Some(script), _) => Arc::new(script),
            (None, Some(file)) => file.script.clone(),
            (None, None) => Arc::new(steps::script(&request.prompt, &failed_calls(&request.messages))),
        }
    }
}

impl Model for Scripted {
    async fn call_watched(
        &self,
        request: &ModelRequest,
        _: &dyn CallWatch,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        if cancel.is_cancelled() {
            return Err(ModelError::Cancelled);
        }
        let script = self.script(request);
        let mut reply = match request.purpose {
            Purpose::Plan { .. } => said(script.plan_text()),
            Purpose::Turn { number } => {
                let place = script.place(number);
                for extra in place.extras {
                    apply(extra, request.attempt, cancel).await?;
                }
                let item = place.item.or(script.closing.as_ref());
                item.map_or_else(task_complete, |item| act(item, number))
            }
        };
        reply.usage = usage::estimate(request, &reply);
        Ok(reply)
    }

    fn identity(&self) -> (String, String) {
        (PROVIDER.to_owned(), MODEL.to_owned())
    }
}

/// The calls that failed, each with its tool and the first line of why.
fn failed_calls(messages: &[ChatMessage]) -> Vec<String> {
    let failed = messages.iter().filter_map(|message| match message {
        ChatMessage::ToolResult {
            name,
            content,
            is_error: true,
            ..
        } => Some((name, content)),
        _ => None,
    });
    let why = |content: &str| -> String {
        let result: Option<Value> = serde_json::from_str(content).ok();
        let error = result.as_ref().and_then(|result| result["error"].as_str());
        let line = error.unwrap_or(content).lines().next().unwrap_or_default();
        line.chars().take(MAX_FAULT_CHARS).collect()
    };
    failed
        .map(|(name, content)| format!("{name} ({})", why(content)))
        .collect()
}

/// Sleeps or fails as the script says.
async fn apply(extra: Extra, attempt: u32, cancel: &CancellationToken) -> Result<(), ModelError> {
    match extra {
        Extra::Sleep(time) => tokio::select! {
            biased;
            () = cancel.cancelled() => Err(ModelError::Cancelled),
            () = tokio::time::sleep(time) => Ok(()),
        },
        Extra::Error {
            status,
            attempts,
            retry_after,
        } if attempt <= attempts => Err(failure(status, retry_after)),
        Extra::Error { .. } => Ok(()),
    }
}

fn failure(status: u16, retry_after: Option<Duration>) -> ModelError {
    let message = format!("answered {status}, as its script says");
    if !answers::is_transient(status) {
        return answers::permanent(PROVIDER, &message, Some(status));
    }
    ModelError::Transient {
        message: format!("{PROVIDER} {message}"),
        status: Some(status),
        retry_after,
        try_again_here: false,
    }
}

/// The reply an item of the script stands for.
fn act(item: &Value, turn: u32) -> ModelReply {
    if item["type"] == "raw" {
        return said(item["text"].as_str().unwrap_or_default().to_owned());
    }
    if let Value::String(text) = item {
        return said(text.clone());
    }
    let actions = match item {
        Value::Array(actions) => actions.as_slice(),
        single => std::slice::from_ref(single),
    };
    let calls: Option<Vec<ToolUse>> = (0..)
        .zip(actions)
        .map(|(index, action)| tool_use(action, turn, index))
        .collect();
    match calls {
        Some(tool_calls) if !tool_calls.is_empty() => ModelReply {
            text: spoken_beside(actions),
            tool_calls,
            stop: StopReason::ToolUse,
            ..said(String::new())
        },
        _ => said(item.to_string()),
    }
}

/// A `tool` action as a native call; other actions are given as their JSON.
fn tool_use(action: &Value, turn: u32, index: u32) -> Option<ToolUse> {
    if action["type"] != "tool" {
        return None;
    }
    Some(ToolUse {
        id: format!("call_{turn}_{index}"),
        name: action["tool_name"].as_str()?.to_owned(),
        input: action.get("tool_input").cloned().unwrap_or_else(|| json!({})),
    })
}

/// What the model says along with its calls: the first action's reasoning, else its message.
fn spoken_beside(actions: &[Value]) -> Option<String> {
    let first = actions.first()?;
    ["reasoning", "message"]
        .iter()
        .find_map(|name| first[*name].as_str())
        .map(str::to_owned)
}

fn task_complete() -> ModelReply {
    said(json!({"type": "task_complete", "message": "The script is done."}).to_string())
}

fn said(text: String) -> ModelReply {
    ModelReply {
        text: Some(text),
        tool_calls: vec![],
        stop: StopReason::End,
        usage: Usage::default(),
        model: MODEL.to_owned(),
        provider: PROVIDER.to_owned(),
    }
}

#[cfg(test)]
mod tests;
