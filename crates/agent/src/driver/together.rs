//! Reading calls of one turn that follow each other run side by side; they settle in their order, in one commit.
//!
//! What is settled is always the beginning of the turn: when one of the calls has to be tried again, those behind it are read
//! again as well, which does no harm.

use super::step_events::StepEvents;
use super::tool_calls::settled;
use super::{Driver, Flow, Outcome};
use crate::ports::{Model, RemoteTools, RunLog, Sandbox, Workspace};
use crate::snapshot::{Snapshot, step_id};
use crate::step::start_step;
use crate::supervisor::{DueTool, Next, Supervisor};
use crate::tools::ToolError;
use domain::run::StepStatus;
use domain::{Change, Effect, ToolResult};
use futures::future::join_all;

/// A call with its answer and how long it took, in milliseconds.
type Answered<'d> = (&'d DueTool, Result<ToolResult, ToolError>, i64);

impl<M: Model, W: Workspace, S: Sandbox, R: RemoteTools, L: RunLog> Driver<'_, M, W, S, R, L> {
    /// The calls that can begin now: one, or several that only read.
    pub(super) fn due_together(&self, snapshot: &Snapshot, machine: &Supervisor) -> Vec<DueTool> {
        let open = |due: &DueTool| {
            let step = snapshot.step(due.turn, due.action);
            step.is_none_or(|step| step.result.is_none()) && self.effect_of(due) == Effect::Pure
        };
        let most = self.limits.parallel_calls.max(1) as usize;
        // One that may not be made now ends the row; it is looked at on its own.
        let row = machine
            .tools_in_a_row()
            .map_while(|due| self.may_begin(snapshot, due));
        let mut due: Vec<DueTool> = row.take_while(open).take(most).collect();
        if let Some(purse) = self.log.purse() {
            while due.len() > 1 && !purse.has_room_for_steps(due.len(), self.clock.now()) {
                due.pop();
            }
        }
        due
    }

    /// Runs reading calls side by side.
    pub(super) async fn run_together(
        &self,
        snapshot: &mut Snapshot,
        machine: &mut Supervisor,
        batch: &[DueTool],
    ) -> Flow<()> {
        let begun: Vec<Change> = batch.iter().filter_map(|due| begin(snapshot, due)).collect();
        if !begun.is_empty() {
            self.commit(begun).await?;
        }
        if !self.log.is_held() {
            return Err(Outcome::LeaseLost);
        }
        let ids = batch
            .iter()
            .map(|due| step_id(snapshot.run_id, due.turn, due.action));
        let ears: Vec<_> = ids.map(|id| StepEvents::new(self.log, self.clock, id)).collect();
        let calls = batch.iter().zip(&ears).map(async |(due, events)| {
            let called = Box::pin(self.call(snapshot, due, events)).await;
            (due, called, events.duration_ms())
        });
        let answered = join_all(calls).await;
        if let Some(outcome) = ears.iter().find_map(StepEvents::ending) {
            return Err(outcome);
        }
        self.settle_together(snapshot, machine, answered).await
    }

    async fn settle_together(
        &self,
        snapshot: &mut Snapshot,
        machine: &mut Supervisor,
        answered: Vec<Answered<'_>>,
    ) -> Flow<()> {
        let (mut stored, mut next) = (vec![], vec![]);
        let mut again = None;
        for (due, called, duration_ms) in answered {
            let result = match called {
                Ok(result) => self.with_whole_kept(due, result).await,
                Err(ToolError::ToModel(result)) => *result,
                Err(ToolError::Cancelled) => return Err(Outcome::LeaseLost),
                Err(ToolError::Retry(error) | ToolError::Unknown(error)) => {
                    again.get_or_insert(error);
                    ToolResult::cancelled()
                }
            };
            if again.is_some() {
                stored.push(reset(snapshot, due));
            } else if matches!(machine.next(), Next::End(_)) {
                stored.push(late(snapshot, due, result, duration_ms));
            } else {
                let (happened, ending) = settled(snapshot, machine, due, (result, duration_ms));
                stored.extend(happened);
                next.extend(ending);
            }
        }
        if let Some(error) = again {
            stored.extend(next);
            self.commit(stored).await?;
            return Err(Outcome::retry(error));
        }
        self.ride_along(snapshot, machine, &mut next);
        self.commit_unless_paused(stored, next).await
    }
}

/// The change with which a call begins; none when it has begun here already.
fn begin(snapshot: &mut Snapshot, due: &DueTool) -> Option<Change> {
    match snapshot.step_mut(due.turn, due.action) {
        None => Some(start_step(snapshot, due, Effect::Pure)),
        Some(step) if step.started_here => None,
        Some(step) => {
            step.started_here = true;
            Some(Change::StepRestarted { step_id: step.id })
        }
    }
}

fn reset(snapshot: &Snapshot, due: &DueTool) -> Change {
    Change::StepReset {
        step_id: step_id(snapshot.run_id, due.turn, due.action),
    }
}

/// The result of a call behind the one that ended the run.
fn late(snapshot: &Snapshot, due: &DueTool, result: ToolResult, duration_ms: i64) -> Change {
    Change::StepSettled {
        step_id: step_id(snapshot.run_id, due.turn, due.action),
        status: if result.success {
            StepStatus::Completed
        } else {
            StepStatus::Failed
        },
        result,
        duration_ms,
    }
}
