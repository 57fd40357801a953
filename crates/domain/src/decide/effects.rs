//! A person's word on a call whose outcome nobody here knows.

use super::{Decision, JobIntent, Rejection, status};
use crate::change::Change;
use crate::command::{EffectDecision, Verdict};
use crate::event::{LogType, NewEvent};
use crate::ids::{JobId, StepId};
use crate::run::{RunState, StepStatus};
use crate::status::RunStatus;
use crate::tool::ToolResult;
use serde_json::json;

/// Settles the step, or lets it begin again.
pub(super) fn settle(
    run: &RunState,
    step_id: StepId,
    verdict: Verdict,
    job_id: JobId,
) -> Result<Decision, Rejection> {
    let Verdict {
        decision,
        output,
        note,
        epoch,
    } = verdict;
    let is_late = epoch.is_some_and(|seen| seen != run.epoch);
    if run.status != RunStatus::WaitingUser || run.unknown_step != Some(step_id) || is_late {
        return Err(Rejection::NotUnknown(step_id));
    }
    let metadata =
        json!({"event": "effect_settled", "step_id": step_id, "decision": decision.as_str(), "note": note});
    let text = format!("Outcome told by the user: {}", decision.as_str());
    let settled = |status, result| Change::StepSettled {
        step_id,
        status,
        result,
        // When it ended is not known either.
        duration_ms: 0,
    };
    let step = match decision {
        EffectDecision::Done => {
            let output = output.unwrap_or_else(|| json!({}));
            settled(StepStatus::Completed, ToolResult::ok(output, 0.0))
        }
        EffectDecision::NotDone => settled(
            StepStatus::Failed,
            ToolResult::failed("Not carried out: the worker was lost", 0.0),
        ),
        EffectDecision::Retry => Change::StepReset { step_id },
    };
    let changes = vec![
        Change::Log(NewEvent::new(LogType::Info, text, metadata)),
        step,
        Change::Waiting(None),
        status(RunStatus::Executing),
    ];
    Ok(Decision::of(changes).job(JobIntent::Enqueue(job_id)))
}
