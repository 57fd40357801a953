//! Tool calls: started, called, settled; and what becomes of those whose outcome nobody knows.

use super::step_events::StepEvents;
use super::{Driver, Flow, OnUnknown, Outcome, phases};
use crate::ports::{Model, RemoteTools, RunLog, Sandbox, Workspace};
use crate::replan;
use crate::snapshot::{Snapshot, step_id};
use crate::step::{ask_outcome, called, idempotency_key, outcome_unknown, said_to_user, start_step};
use crate::supervisor::{DueTool, Next, Supervisor};
use crate::tools::{self, Call, ToolError};
use domain::action::Action;
use domain::change::Change;
use domain::run::StepStatus;
use domain::{Effect, Storable as _, ToolResult};
use serde_json::Value;
use std::time::Duration;
use tracing::Instrument as _;
use tracing::field::Empty;

/// Why the outcome of a step begun by another claim is not known.
const WORKER_LOST: &str = "worker was lost during the call";

impl<M: Model, W: Workspace, S: Sandbox, R: RemoteTools, L: RunLog> Driver<'_, M, W, S, R, L> {
    /// What can go into the commit of what it follows: the whole step of a tool that does nothing outside, and the start of
    /// the next one that does: a round trip less for each, and nothing is lost by it. One that must not be repeated is
    /// claimed right before its call, so that little else can happen in between.
    pub(super) fn ride_along(
        &self,
        snapshot: &mut Snapshot,
        machine: &mut Supervisor,
        next: &mut Vec<Change>,
    ) {
        while let Next::RunTool(due) = machine.next()
            && !self.soft.is_cancelled()
            && !phases::ends_task(&due)
            && snapshot.step(due.turn, due.action).is_none()
            && self.has_room_for_step(&due, next)
        {
            let Some(due) = self.may_begin(snapshot, due) else {
                return;
            };
            let effect = self.effect_of(&due);
            if effect == Effect::AtMostOnce {
                return;
            }
            next.push(start_step(snapshot, &due, effect));
            let (tool_name, tool_input) = called(&due);
            let within = tools::result_within(&tool_name, &tool_input);
            let Some(result) = within.or_else(|| replan::result_within(snapshot, &due)) else {
                return;
            };
            let (stored, ending) = settled(snapshot, machine, &due, (result, 0));
            next.extend(stored);
            next.extend(ending);
        }
    }

    pub(super) fn effect_of_action(&self, action: &Action) -> Effect {
        let input = action.tool_input.as_ref().unwrap_or(&Value::Null);
        self.tools
            .effect_of(action.tool_name.as_deref().unwrap_or_default(), input)
    }

    pub(super) fn effect_of(&self, due: &DueTool) -> Effect {
        let (tool_name, tool_input) = called(due);
        self.tools.effect_of(&tool_name, &tool_input)
    }

    pub(super) async fn run_tool(
        &self,
        snapshot: &mut Snapshot,
        machine: &mut Supervisor,
        due: &DueTool,
    ) -> Flow<()> {
        let together = self.due_together(snapshot, machine);
        if together.len() > 1 {
            // On the heap: the stack holds every future of a drive.
            return Box::pin(self.run_together(snapshot, machine, &together)).await;
        }
        let id = step_id(snapshot.run_id, due.turn, due.action);
        let effect = self.effect_of(due);
        match snapshot.step_mut(due.turn, due.action) {
            None => {
                let started = start_step(snapshot, due, effect);
                self.commit(vec![started]).await?;
            }
            Some(step) if step.started_here => {}
            Some(step) if effect == Effect::AtMostOnce && step.status == StepStatus::Running => {
                return self.unknown(snapshot, machine, due, WORKER_LOST).await;
            }
            Some(step) => {
                step.started_here = true;
                self.commit(vec![Change::StepRestarted { step_id: id }]).await?;
            }
        }
        if !self.log.is_held() {
            return Err(Outcome::LeaseLost);
        }
        let events = StepEvents::new(self.log, self.clock, id);
        let called = Box::pin(self.call(snapshot, due, &events)).await;
        let duration_ms = events.duration_ms();
        if let Some(outcome) = events.ending() {
            return Err(outcome);
        }
        match called {
            Ok(result) => {
                let result = self.with_whole_kept(due, result).await;
                self.settle(snapshot, machine, due, (result, duration_ms)).await
            }
            Err(ToolError::ToModel(result)) => {
                self.settle(snapshot, machine, due, (*result, duration_ms)).await
            }
            Err(ToolError::Cancelled) => Err(Outcome::LeaseLost),
            Err(ToolError::Retry(error)) => {
                self.commit(vec![Change::StepReset { step_id: id }]).await?;
                Err(Outcome::retry(error))
            }
            Err(ToolError::Unknown(reason)) if effect == Effect::AtMostOnce => {
                self.unknown(snapshot, machine, due, &reason).await
            }
            Err(ToolError::Unknown(error)) => Err(Outcome::retry(error)),
        }
    }

    pub(super) fn call_of<'c>(
        &self,
        snapshot: &'c Snapshot,
        due: &DueTool,
        (tool_name, tool_input, idempotency_key): (&'c str, &'c Value, &'c str),
    ) -> Call<'c> {
        Call {
            run_id: snapshot.run_id,
            step_id: step_id(snapshot.run_id, due.turn, due.action),
            user_id: &snapshot.user_id,
            tool_name,
            tool_input,
            idempotency_key,
            epoch: self.epoch,
        }
    }

    pub(super) async fn call(
        &self,
        snapshot: &Snapshot,
        due: &DueTool,
        events: &StepEvents<'_, L>,
    ) -> Result<ToolResult, ToolError> {
        if let Some(result) = self.steering(snapshot, due).await {
            return Ok(result);
        }
        let (tool_name, tool_input) = called(due);
        let key = idempotency_key(snapshot.run_id, due);
        let call = self.call_of(snapshot, due, (&tool_name, &tool_input, &key));
        let span = tracing::trace_span!(target: "traces", "runtime.tool", gen_ai.operation.name = "execute_tool",
            gen_ai.tool.name = tool_name, gen_ai.tool.call.id = %call.step_id, error.type = Empty);
        let running = self
            .tools
            .call(&call, events, &self.cancel)
            .instrument(span.clone());
        let called = tokio::select! {
            biased;
            called = self.in_time(due, running) => called,
            outcome = events.end_of_wait(&self.pause, &self.soft) => {
                events.end(outcome);
                Err(ToolError::Cancelled)
            }
        };
        let error = match &called {
            Ok(result) if result.success => return called,
            Ok(_) | Err(ToolError::ToModel(_)) => "tool_error",
            Err(ToolError::Cancelled) => "cancelled",
            Err(ToolError::Retry(_)) => "transient_error",
            Err(ToolError::Unknown(_)) => "unknown_outcome",
        };
        span.record("error.type", error);
        called
    }

    /// `shell` and `code` have a limit of their own, counted from when there was room for them.
    async fn in_time(
        &self,
        due: &DueTool,
        running: impl Future<Output = Result<ToolResult, ToolError>>,
    ) -> Result<ToolResult, ToolError> {
        if matches!(due.call.tool_name.as_deref(), Some("shell" | "code")) {
            return running.await;
        }
        let seconds = self.limits.step_timeout_seconds;
        let in_time = tokio::time::timeout(Duration::from_secs(seconds), running).await;
        in_time.unwrap_or_else(|_| {
            if self.effect_of(due) == Effect::AtMostOnce {
                return Err(ToolError::Unknown(format!("no answer within {seconds} seconds")));
            }
            let error = format!("Timed out after {seconds} seconds");
            Err(ToolError::ToModel(Box::new(ToolResult::failed(error, 0.0))))
        })
    }

    /// The call must not be repeated, and nobody here knows whether it took effect.
    async fn unknown(
        &self,
        snapshot: &mut Snapshot,
        machine: &mut Supervisor,
        due: &DueTool,
        reason: &str,
    ) -> Flow<()> {
        let id = step_id(snapshot.run_id, due.turn, due.action);
        tracing::warn!(run_id = %snapshot.run_id, step_id = %id, reason, "outcome of a tool call unknown");
        match self.on_unknown {
            OnUnknown::Ask => {
                self.commit(ask_outcome(id, due, self.epoch, reason)).await?;
                Err(Outcome::Waiting)
            }
            OnUnknown::TellModel => {
                self.settle(snapshot, machine, due, (outcome_unknown(reason), 0))
                    .await
            }
        }
    }

    async fn settle(
        &self,
        snapshot: &mut Snapshot,
        machine: &mut Supervisor,
        due: &DueTool,
        (result, duration_ms): (ToolResult, i64),
    ) -> Flow<()> {
        let (stored, mut next) = settled(snapshot, machine, due, (result, duration_ms));
        self.ride_along(snapshot, machine, &mut next);
        self.commit_unless_paused(stored, next).await
    }
}

/// Takes a result into snapshot and machine; gives what has happened, and the change of status it leads to.
pub(super) fn settled(
    snapshot: &mut Snapshot,
    machine: &mut Supervisor,
    due: &DueTool,
    (result, duration_ms): (ToolResult, i64),
) -> (Vec<Change>, Vec<Change>) {
    let result = snapshot
        .gate
        .with_edit_told((due.turn, due.action), result)
        .storable();
    let status = if result.success {
        StepStatus::Completed
    } else {
        StepStatus::Failed
    };
    let settled = Change::StepSettled {
        step_id: step_id(snapshot.run_id, due.turn, due.action),
        status,
        result: result.clone(),
        duration_ms,
    };
    // A settled step starts the count of attempts again, in the store as here.
    snapshot.attempt = 1;
    let mut said: Vec<Change> = said_to_user(snapshot, due, &result).into_iter().collect();
    said.extend(replan::change(snapshot, due, &result));
    said.extend(phases::note(due, &result));
    if let Some(step) = snapshot.step_mut(due.turn, due.action) {
        step.status = status;
        step.result = Some(result.clone());
    }
    let applied = machine.on_result(&result);
    let stored = std::iter::once(settled)
        .chain(said)
        .chain(applied.changes)
        .collect();
    (stored, applied.ending)
}
