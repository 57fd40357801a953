//! `code`: a source text in the sandbox. Success means exit code 0.

use super::{Call, ToolError, WORKSPACE_DIR, input, shell};
use crate::ports::{Program, Sandbox, SandboxEvents, SandboxRequest};
use domain::ToolResult;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Languages the tool takes; whether the host has them is told when they are used.
pub(super) const LANGUAGES: [&str; 6] = ["python", "javascript", "typescript", "bash", "ruby", "go"];
/// Credits of a program that ran.
const CREDITS: f64 = 2.0;

#[derive(Deserialize)]
struct Input {
    language: Option<String>,
    code: String,
    timeout: Option<u64>,
}

/// What to run; a call with wrong input is refused.
fn request(call: &Call<'_>) -> Result<SandboxRequest, ToolError> {
    let Input {
        language,
        code,
        timeout,
    } = input(call.tool_input)?;
    let language = language.unwrap_or_else(|| LANGUAGES[0].to_owned());
    if !LANGUAGES.contains(&language.as_str()) {
        return Err(ToolError::invalid_input(format!(
            "language must be one of {}",
            LANGUAGES.join(", ")
        )));
    }
    let seconds = shell::checked_timeout(timeout)?;
    Ok(SandboxRequest {
        run_id: call.run_id,
        step_id: call.step_id,
        user_id: call.user_id.clone(),
        program: Program::Code { language, code },
        working_dir: WORKSPACE_DIR.to_owned(),
        timeout: Duration::from_secs(seconds),
    })
}

/// Why a call would be refused before anything is done.
pub(super) fn refusal<S: Sandbox>(sandbox: &S, call: &Call<'_>) -> Option<ToolError> {
    shell::refused(sandbox, request(call))
}

pub(super) async fn run<S: Sandbox>(
    sandbox: &S,
    call: &Call<'_>,
    events: &impl SandboxEvents,
    cancel: &CancellationToken,
) -> Result<ToolResult, ToolError> {
    let request = request(call)?;
    let seconds = request.timeout.as_secs();
    let ran = sandbox
        .run(&request, events, cancel)
        .await
        .map_err(|error| ToolError::sandbox(error, CREDITS))?;
    let error = shell::failure(&ran, seconds);
    let mut output = json!({
        "success": error.is_none(),
        "stdout": ran.stdout,
        "stderr": ran.stderr,
        "error": error,
        "results": [],
        "exit_code": ran.exit_code,
        "execution_time_ms": ran.duration_ms,
    });
    shell::add_notes(&mut output, &ran);
    Ok(shell::result(output, ran, seconds, CREDITS))
}
