//! A result too long for the model's view is kept whole as a file of the workspace, where the model and the user can read it.
//!
//! The file is written before the step settles, under a name made of the step's place: a take-over writes the same file again,
//! and the step's one settlement makes it one artifact. A file that cannot be written costs nothing but itself.

use super::Driver;
use crate::context::longest_result;
use crate::conversation::{KEPT_OUTPUTS, whole_text};
use crate::ports::{Model, RemoteTools, RunLog, Sandbox, Workspace};
use crate::supervisor::DueTool;
use domain::ToolResult;
use serde_json::Value;

/// A text that makes up at least so many percent of an output is kept as it is, without the JSON around it.
const MOSTLY: usize = 90;

impl<M: Model, W: Workspace, S: Sandbox, R: RemoteTools, L: RunLog> Driver<'_, M, W, S, R, L> {
    /// The result, with the file that holds the whole of it when the model will see only a part.
    pub(super) async fn with_whole_kept(&self, due: &DueTool, mut result: ToolResult) -> ToolResult {
        // What was read from a file is there already.
        let reads_files = matches!(due.call.tool_name.as_deref(), Some("file_read" | "file_list"));
        let whole = whole_text(&result);
        if reads_files || whole.len() <= longest_result(self.limits.context_tokens) {
            return result;
        }
        let (text, ending) = match main_text(&result.output, whole.len()) {
            Some(text) => (text.to_owned(), "txt"),
            None => (whole, "json"),
        };
        let tool = due.call.tool_name.as_deref().unwrap_or_default();
        let tool: String = tool
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
            .take(40)
            .collect();
        let path = format!("{KEPT_OUTPUTS}{}-{}-{tool}.{ending}", due.turn, due.action);
        match self.tools.workspace.write(&path, text.into_bytes().into()).await {
            Ok(written) => {
                result.changes.push(written.change());
                result.artifacts.push(written.artifact);
            }
            Err(error) => tracing::info!(path, error = %error, "a long output is kept in its step alone"),
        }
        result
    }
}

/// The text that is nearly all of an output, for example what a program printed.
fn main_text(output: &Value, whole: usize) -> Option<&str> {
    let texts = output.as_object()?.values().filter_map(Value::as_str);
    texts
        .max_by_key(|text| text.len())
        .filter(|text| text.len() * 100 >= whole * MOSTLY)
}
