//! A phase is done when the files its plan names are there, and the task when those of all phases are (`AGENT_CHECK_OUTPUTS`).
//!
//! The model's `phase_complete` and `task_complete` then are calls. The first time files are missing the call fails and says
//! which; the model may make them, or say again that it is done: that is taken, with a warning. An end of the task that is taken
//! leaves no step: it ends the run as if nothing had been looked for.

use super::tool_calls::settled;
use super::{Driver, Flow};
use crate::parse::{PHASE_COMPLETE, TASK_COMPLETE};
use crate::ports::{Model, RemoteTools, RunLog, Sandbox, Workspace};
use crate::replan::{self, expected_files, files_of_phase, missing};
use crate::snapshot::Snapshot;
use crate::step::start_step;
use crate::supervisor::{DueTool, Supervisor};
use domain::action::ActionKind;
use domain::{Change, Effect, NewEvent, ToolResult, Turn};
use serde_json::{Value, json};

impl<M: Model, W: Workspace, S: Sandbox, R: RemoteTools, L: RunLog> Driver<'_, M, W, S, R, L> {
    /// Makes every end of a phase or of the task in a fresh turn a call, when the plan names files.
    pub(super) fn check_phases(&self, snapshot: &Snapshot, turn: &mut Turn) {
        let phases = || snapshot.plan.iter().flat_map(|plan| &plan.phases);
        if !self.limits.check_outputs || !phases().any(|phase| !expected_files(phase).is_empty()) {
            return;
        }
        for action in &mut turn.actions {
            let name = match action.kind {
                ActionKind::PhaseComplete => PHASE_COMPLETE,
                ActionKind::TaskComplete => TASK_COMPLETE,
                ActionKind::Tool | ActionKind::Message | ActionKind::RequestInput => continue,
            };
            action.kind = ActionKind::Tool;
            action.tool_name = Some(name.to_owned());
            action.tool_input = Some(json!({"summary": action.message.take()}));
        }
    }

    /// The model says that all is done. Ends the run, unless files are missing that the model was not told of.
    pub(super) async fn end_task(
        &self,
        snapshot: &mut Snapshot,
        machine: &mut Supervisor,
        due: &DueTool,
    ) -> Flow<()> {
        let mut expected = files_from_phase(snapshot, due.phase);
        expected.retain(|_| self.limits.check_outputs);
        // Files that nobody can look for do not hold up a run.
        let absent = self.absent(expected).await.unwrap_or_default();
        if absent.iter().all(|path| was_told(snapshot, path)) {
            let taken = (!absent.is_empty()).then(|| outputs_missing(due, &json!(absent), true));
            let ends = machine.end_task().all();
            return self.commit(taken.into_iter().chain(ends).collect()).await;
        }
        self.may_begin_step(snapshot, due).await?;
        let error = format!(
            "The task is not done, expected outputs do not exist: {}. Make them, or call task_complete again if they are not \
             needed",
            absent.join(", ")
        );
        let result = ToolResult {
            output: json!({"phase": due.phase, "missing": absent}),
            ..ToolResult::failed(error, 0.0)
        };
        let begun = start_step(snapshot, due, Effect::Idempotent);
        let (stored, next) = settled(snapshot, machine, due, (result, 0));
        let happened = std::iter::once(begun).chain(stored).chain(next);
        self.commit(happened.collect()).await
    }

    /// Those of the paths that are not in the workspace; nothing when nobody can say.
    async fn absent(&self, mut expected: Vec<String>) -> Option<Vec<String>> {
        if !expected.is_empty() {
            let files = self.tools.workspace.list("").await.ok()?;
            expected.retain(|path| !files.iter().any(|file| file.filepath == *path));
        }
        Some(expected)
    }

    /// The result of a call that steers the run; nothing for any other.
    pub(super) async fn steering(&self, snapshot: &Snapshot, due: &DueTool) -> Option<ToolResult> {
        if ends_phase(due) {
            return Some(self.phase_complete(snapshot, due).await);
        }
        replan::result_within(snapshot, due)
    }

    async fn phase_complete(&self, snapshot: &Snapshot, due: &DueTool) -> ToolResult {
        let expected = files_of_phase(snapshot, due.phase);
        let Some(absent) = self.absent(expected.clone()).await else {
            return ToolResult::ok(json!({"phase": due.phase, "unchecked": expected}), 0.0);
        };
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

/// The files of this phase and of those after it, each once.
fn files_from_phase(snapshot: &Snapshot, number: u32) -> Vec<String> {
    let last = snapshot.plan.as_ref().map_or(0, domain::Plan::total_phases);
    let mut files: Vec<String> = vec![];
    for path in (number..=last).flat_map(|number| files_of_phase(snapshot, number)) {
        if !files.contains(&path) {
            files.push(path);
        }
    }
    files
}

/// What failed calls said of missing files.
fn refusals(snapshot: &Snapshot) -> impl Iterator<Item = (&ToolResult, &Vec<Value>)> {
    let results = snapshot.steps.iter().filter_map(|step| step.result.as_ref());
    let refused = results.filter(|result| !result.success);
    refused.filter_map(|result| Some((result, missing(result)?)))
}

/// Whether the model was told before what is missing in this phase.
fn was_refused(snapshot: &Snapshot, due: &DueTool) -> bool {
    refusals(snapshot).any(|(result, _)| result.output.get("phase") == Some(&json!(due.phase)))
}

/// Whether the model was told before that this file is missing.
fn was_told(snapshot: &Snapshot, path: &str) -> bool {
    refusals(snapshot).any(|(_, told)| told.iter().any(|told| told == path))
}

/// A phase or a task that is said to be done without its files is warned of.
pub(super) fn note(due: &DueTool, result: &ToolResult) -> Option<Change> {
    if !ends_phase(due) && !ends_task(due) {
        return None;
    }
    let absent = missing(result)?;
    Some(outputs_missing(due, &json!(absent), result.success))
}

fn outputs_missing(due: &DueTool, absent: &Value, taken: bool) -> Change {
    let metadata = json!({"event": "outputs_missing", "phase": due.phase, "missing": absent, "taken": taken});
    let text = match (ends_task(due), taken) {
        (false, true) => "Phase ended without its expected outputs",
        (false, false) => "Expected outputs of the phase are missing",
        (true, true) => "Task ended without its expected outputs",
        (true, false) => "Expected outputs of the task are missing",
    };
    Change::Log(NewEvent::warning(text, metadata))
}

fn ends_phase(due: &DueTool) -> bool {
    due.call.tool_name.as_deref() == Some(PHASE_COMPLETE)
}

/// Whether the call is the end of the whole task.
pub(super) fn ends_task(due: &DueTool) -> bool {
    due.call.tool_name.as_deref() == Some(TASK_COMPLETE)
}
