//! `shell`: a command in the sandbox. Success means exit code 0.

use super::{Call, DEFAULT_TIMEOUT_SECONDS, MAX_TIMEOUT_SECONDS, ToolError, WORKSPACE_DIR, input};
use crate::ports::{Program, Sandbox, SandboxEvents, SandboxOutput, SandboxRequest};
use domain::ToolResult;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Credits of a command that ran.
const CREDITS: f64 = 1.0;

#[derive(Deserialize)]
struct Input {
    command: String,
    working_dir: Option<String>,
    timeout: Option<u64>,
}

/// What to run; a call with wrong input is refused.
fn request(call: &Call<'_>) -> Result<SandboxRequest, ToolError> {
    let Input {
        command,
        working_dir,
        timeout,
    } = input(call.tool_input)?;
    if command.trim().is_empty() {
        return Err(ToolError::invalid_input("command cannot be empty"));
    }
    let seconds = checked_timeout(timeout)?;
    Ok(SandboxRequest {
        run_id: call.run_id,
        step_id: call.step_id,
        user_id: call.user_id.clone(),
        program: Program::Shell { command },
        working_dir: working_dir.unwrap_or_else(|| WORKSPACE_DIR.to_owned()),
        timeout: Duration::from_secs(seconds),
    })
}

/// Why a call would be refused before anything is done.
pub(super) fn refusal<S: Sandbox>(sandbox: &S, call: &Call<'_>) -> Option<ToolError> {
    refused(sandbox, request(call))
}

pub(super) fn refused<S: Sandbox>(
    sandbox: &S,
    request: Result<SandboxRequest, ToolError>,
) -> Option<ToolError> {
    match request {
        Ok(request) => sandbox
            .refusal(&request)
            .map(|error| ToolError::sandbox(error, 0.0)),
        Err(error) => Some(error),
    }
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
    let mut output = json!({
        "stdout": ran.stdout,
        "stderr": ran.stderr,
        "exit_code": ran.exit_code,
        "timed_out": ran.timed_out,
    });
    add_notes(&mut output, &ran);
    Ok(result(output, ran, seconds, CREDITS))
}

pub(super) fn checked_timeout(timeout: Option<u64>) -> Result<u64, ToolError> {
    let seconds = timeout.unwrap_or(DEFAULT_TIMEOUT_SECONDS);
    if (1..=MAX_TIMEOUT_SECONDS).contains(&seconds) {
        return Ok(seconds);
    }
    Err(ToolError::invalid_input(format!(
        "timeout must be 1 to {MAX_TIMEOUT_SECONDS} seconds"
    )))
}

pub(super) fn add_notes(output: &mut Value, ran: &SandboxOutput) {
    if ran.truncated {
        output["truncated"] = json!(true);
    }
    if ran.ephemeral_workspace {
        output["workspace"] = json!("ephemeral");
    }
    let mut warnings = ran.warnings.clone();
    // Else it is the error.
    warnings.extend(ran.unkept.clone().filter(|_| ran.timed_out));
    if !warnings.is_empty() {
        output["warnings"] = json!(warnings);
    }
}

/// Why a program gave no success, in one line; nothing when it did.
pub(super) fn failure(ran: &SandboxOutput, seconds: u64) -> Option<String> {
    if ran.timed_out {
        return Some(format!("Timed out after {seconds} seconds"));
    }
    if let Some(fault) = &ran.unkept {
        return Some(fault.clone());
    }
    match (ran.exit_code, &ran.ended_by) {
        (Some(0), _) => None,
        (_, Some(reason)) => Some(reason.clone()),
        (Some(code), None) => Some(format!("Exited with code {code}")),
        (None, None) => Some("Ended without an exit code".to_owned()),
    }
}

pub(super) fn result(output: Value, ran: SandboxOutput, seconds: u64, credits: f64) -> ToolResult {
    let error = failure(&ran, seconds);
    ToolResult {
        output,
        success: error.is_none(),
        error,
        credits_used: credits,
        artifacts: ran.artifacts,
        memory: vec![],
        changes: ran.changes,
        refused: false,
    }
}
