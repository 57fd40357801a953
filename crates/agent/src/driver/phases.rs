//! A phase is done when the files its plan names are there (`AGENT_CHECK_OUTPUTS`).
//!
//! The model's `phase_complete` then is a call with a step and a result. The first time files are missing it fails and says which;
//! the model may make them, or say again that the phase is done: that is taken, with a warning.

use super::Driver;
use crate::parse::PHASE_COMPLETE;
use crate::ports::{Model, RemoteTools, RunLog, Sandbox, Workspace};
use crate::replan::{self, expected_files, files_of_phase, missing};
use crate::snapshot::Snapshot;
use crate::supervisor::DueTool;
use domain::action::ActionKind;
use domain::{Change, NewEvent, ToolResult, Turn};
use serde_json::json;

impl<M: Model, W: Workspace, S: Sandbox, R: RemoteTools, L: RunLog> Driver<'_, M, W, S, R, L> {
    /// Makes every `phase_complete` of a fresh turn a call, when the plan names files.
    pub(super) fn check_phases(&self, snapshot: &Snapshot, turn: &mut Turn) {
        let phases = || snapshot.plan.iter().flat_map(|plan| &plan.phases);
        if !self.limits.check_outputs || !phases().any(|phase| !expected_files(phase).is_empty()) {
            return;
        }
        for action in turn
            .actions
            .iter_mut()
            .filter(|action| action.kind == ActionKind::PhaseComplete)
        {
            action.kind = ActionKind::Tool;
            action.tool_name = Some(PHASE_COMPLETE.to_owned());
            action.tool_input = Some(json!({"summary": action.message.take()}));
        }
    }

    /// The result of a call that steers the run; nothing for any other.
    pub(super) async fn steering(&self, snapshot: &Snapshot, due: &DueTool) -> Option<ToolResult> {
        if due.call.tool_name.as_deref() == Some(PHASE_COMPLETE) {
            return Some(self.phase_complete(snapshot, due).await);
        }
        replan::result_within(snapshot, due)
    }

    async fn phase_complete(&self, snapshot: &Snapshot, due: &DueTool) -> ToolResult {
        let expected = files_of_phase(snapshot, due.phase);
        let mut absent: Vec<String> = vec![];
        if !expected.is_empty() {
            // Files that nobody can look for do not hold up a run.
            let Ok(files) = self.tools.workspace.list("").await else {
                return ToolResult::ok(json!({"phase": due.phase, "unchecked": expected}), 0.0);
            };
            absent.extend(
                expected
                    .into_iter()
                    .filter(|path| !files.iter().any(|file| file.filepath == *path)),
            );
        }
        let output = json!({"phase": due.phase, "missing": absent});
        if absent.is_empty() || was_refused(snapshot, due) {
            return ToolResult::ok(output, 0.0);
        }
        let error = format!(
            "Phase {} is not done, its expected outputs do not exist: {}. Make them, or call phase_complete again if they \
             are not needed",
            due.phase,
            absent.join(", ")
        );
        ToolResult {
            output,
            ..ToolResult::failed(error, 0.0)
        }
    }
}

/// Whether the model was told before what is missing in this phase.
fn was_refused(snapshot: &Snapshot, due: &DueTool) -> bool {
    let refused = |result: &ToolResult| {
        !result.success && missing(result).is_some() && result.output.get("phase") == Some(&json!(due.phase))
    };
    snapshot
        .steps
        .iter()
        .filter_map(|step| step.result.as_ref())
        .any(refused)
}

/// A phase that was taken as done without its files is warned of.
pub(super) fn note(due: &DueTool, result: &ToolResult) -> Option<Change> {
    if due.call.tool_name.as_deref() != Some(PHASE_COMPLETE) {
        return None;
    }
    let absent = missing(result)?;
    let metadata =
        json!({"event": "outputs_missing", "phase": due.phase, "missing": absent, "taken": result.success});
    let text = if result.success {
        "Phase ended without its expected outputs"
    } else {
        "Expected outputs of the phase are missing"
    };
    Some(Change::Log(NewEvent::warning(text, metadata)))
}
