//! Finds the tool of a name, tells its effect and schema, and dispatches a call.

use super::ask_user::{self, ASK_USER};
use super::{ToolError, code, files, message, shell};
use crate::conversation::steering_tools;
use crate::ports::{RemoteTools, Sandbox, SandboxEvents, ToolSpec, Workspace};
use domain::ids::{RunId, StepId, UserId};
use domain::{Effect, Labels, ToolResult};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// One call of a tool.
#[derive(Debug, Clone)]
pub struct Call<'a> {
    pub run_id: RunId,
    pub step_id: StepId,
    pub user_id: &'a UserId,
    pub tool_name: &'a str,
    pub tool_input: &'a Value,
    /// The same for every try of the step.
    pub idempotency_key: &'a str,
    /// Of the claim that calls; rises with every claim of the run.
    pub epoch: i64,
}

/// The tools of one run.
#[derive(Debug)]
pub struct Router<'a, W, S, R> {
    pub workspace: &'a W,
    pub sandbox: &'a S,
    pub remote: &'a R,
}

impl<W: Workspace, S: Sandbox, R: RemoteTools> Router<'_, W, S, R> {
    /// Runs a call to its result; only a stopped call or a failure of our own machinery is an error.
    pub async fn call(
        &self,
        call: &Call<'_>,
        events: &impl SandboxEvents,
        cancel: &CancellationToken,
    ) -> Result<ToolResult, ToolError> {
        let result = match call.tool_name {
            name if self.remote.effect_of(name, call.tool_input).is_some() => {
                self.remote.call(call, cancel).await
            }
            "shell" => shell::run(self.sandbox, call, events, cancel).await,
            "code" => code::run(self.sandbox, call, events, cancel).await,
            "message" => message::run(call.tool_input),
            ASK_USER => ask_user::unanswered(call.tool_input),
            "file_read" => files::read(self.workspace, call.tool_input).await,
            "file_write" => files::write(self.workspace, call.tool_input).await,
            "file_list" => files::list(self.workspace, call.tool_input).await,
            other => Ok(ToolResult::failed(format!("Unknown tool: {other}"), 0.0)),
        };
        match result {
            Err(ToolError::ToModel(result)) => Ok(*result),
            other => other,
        }
    }

    /// What a call would be told before anything is done: nobody needs to be asked about it, and it reads nothing.
    pub fn refusal(&self, call: &Call<'_>) -> Option<ToolResult> {
        let input = call.tool_input;
        let refusal = match call.tool_name {
            name if self.remote.effect_of(name, input).is_some() => return self.remote.refusal(call),
            "shell" => shell::refusal(self.sandbox, call),
            "code" => code::refusal(self.sandbox, call),
            "message" => message::run(input).err(),
            name @ ("file_read" | "file_write" | "file_list") => files::refusal(self.workspace, name, input),
            name if specs().iter().any(|spec| spec.name == name) => None,
            other => Some(ToolError::to_model(format!("Unknown tool: {other}"), 0.0)),
        };
        match refusal {
            Some(ToolError::ToModel(result)) => Some(*result),
            _ => None,
        }
    }

    /// What kind of effect a tool has; decides what happens after its worker was lost in the middle.
    pub fn effect_of(&self, tool_name: &str, tool_input: &Value) -> Effect {
        let remote = self.remote.effect_of(tool_name, tool_input);
        remote.unwrap_or_else(|| effect_of(tool_name))
    }

    /// What a call reads and where it acts, for the policy of the run.
    pub fn labels_of(&self, tool_name: &str, tool_input: &Value) -> Labels {
        match tool_name {
            name if self.remote.effect_of(name, tool_input).is_some() => {
                self.remote.labels_of(name, tool_input)
            }
            // Files may hold what came from elsewhere, and what their owner would not publish.
            "file_read" | "shell" | "code" => Labels {
                reads_untrusted: true,
                reads_private: true,
                acts_outside: false,
            },
            _ => Labels::default(),
        }
    }

    /// The hash over what another system says of a tool, if it is one of another system.
    pub fn pin_of(&self, tool_name: &str) -> Option<String> {
        self.remote.pin_of(tool_name)
    }

    /// Every tool as told to the model, in a fixed order.
    pub fn specs(&self) -> Vec<ToolSpec> {
        let mut all = specs();
        all.extend(self.remote.specs());
        all
    }
}

fn effect_of(tool_name: &str) -> Effect {
    match tool_name {
        "file_read" | "file_list" => Effect::Pure,
        // A sandbox has no network and its files are stored only at the end: running it again leads to the same state.
        _ => Effect::Idempotent,
    }
}

/// Every tool of ours as told to the model, in a fixed order.
pub fn specs() -> Vec<ToolSpec> {
    let text = || json!({"type": "string"});
    let seconds = || json!({"type": "integer", "minimum": 1, "maximum": super::MAX_TIMEOUT_SECONDS});
    let mut specs = vec![
        spec(
            "file_read",
            "Read a text file of the workspace.",
            json!({"filepath": text()}),
            &["filepath"],
        ),
        spec(
            "file_write",
            "Write a text file of the workspace, replacing it.",
            json!({"filepath": text(), "content": text()}),
            &["filepath", "content"],
        ),
        spec(
            "file_list",
            "List the files below a directory of the workspace.",
            json!({"dirpath": text()}),
            &[],
        ),
        spec(
            "shell",
            "Run a shell command in an isolated sandbox without network; the workspace is /workspace.",
            json!({"command": text(), "working_dir": text(), "timeout": seconds()}),
            &["command"],
        ),
        spec(
            "code",
            "Run a program in an isolated sandbox without network; the workspace is /workspace.",
            json!({"language": {"type": "string", "enum": code::LANGUAGES}, "code": text(), "timeout": seconds()}),
            &["code"],
        ),
        spec(
            "message",
            "Tell the user something.",
            json!({"message": text()}),
            &["message"],
        ),
        spec(
            ASK_USER,
            "Ask the user a question and get the answer as the result; the options to choose from and a JSON Schema of the \
             answer may be given.",
            json!({"question": text(), "options": {"type": "array", "items": text()}, "schema": {"type": "object"}}),
            &["question"],
        ),
    ];
    specs.extend(steering_tools());
    specs
}

fn spec(name: &str, description: &str, properties: Value, required: &[&str]) -> ToolSpec {
    ToolSpec {
        name: name.to_owned(),
        description: description.to_owned(),
        input_schema: json!({"type": "object", "properties": properties, "required": required}),
    }
}
