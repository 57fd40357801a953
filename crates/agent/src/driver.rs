//! The driver performs what the supervisor says: it calls the model, runs tools, and commits every change before the next
//! thing is done.
//!
//! Three tokens steer it from outside. `soft`: the process shuts down, hand the run back between two steps. `pause`: let the
//! running step settle and begin nothing. `cancel`: the run was stopped or the lease is lost, end the running step at once
//! and write nothing more.

use crate::parse;
use crate::planner::{self, Planned};
use crate::ports::{CommitError, Model, ModelError, ModelReply, RunLog, Sandbox, Workspace};
use crate::snapshot::{Snapshot, step_id};
use crate::step::{called, said_to_user, start_step, turn_request};
use crate::supervisor::{DueTool, Limits, Next, Supervisor};
use crate::tools::{Call, Router, ToolError};
use domain::change::{Change, RunError};
use domain::run::StepStatus;
use domain::{Clock, NewEvent, RunStatus, ToolResult, Turn};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How a drive ended.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// The run has reached a final status through us.
    Finished(RunStatus),
    /// It waits for its user.
    Waiting,
    /// It was paused; the running step is settled.
    Paused,
    /// It ended by another hand (stopped, timed out); nothing of ours was written after.
    EndedElsewhere,
    /// The claim is stale or the running step was cancelled.
    LeaseLost,
    /// Shutdown: nothing is running, the next worker goes on here.
    HandedBack,
    /// A transient failure: try the job again, not before `retry_after` when given.
    Retry {
        error: String,
        retry_after: Option<Duration>,
    },
    /// The run has failed for a reason no attempt can change; already committed.
    PermanentError { error: String },
}

/// Everything outside that a drive needs.
#[derive(Debug)]
pub struct Driver<'a, M, W, S, L> {
    pub model: &'a M,
    pub tools: Router<'a, W, S>,
    pub log: &'a L,
    pub clock: &'a dyn Clock,
    pub limits: Limits,
    /// Hand back between steps.
    pub soft: CancellationToken,
    /// The run was paused: let a running step settle, but end a pending model call and begin nothing.
    pub pause: CancellationToken,
    /// Stop the running step.
    pub cancel: CancellationToken,
}

/// Either go on or end the drive.
type Flow<T> = Result<T, Outcome>;

impl<M: Model, W: Workspace, S: Sandbox, L: RunLog> Driver<'_, M, W, S, L> {
    /// Drives a claimed run as far as it goes.
    pub async fn drive(&self, mut snapshot: Snapshot) -> Outcome {
        match self.steps(&mut snapshot).await {
            Ok(never) | Err(never) => never,
        }
    }

    async fn steps(&self, snapshot: &mut Snapshot) -> Flow<Outcome> {
        if snapshot.plan.is_none() {
            self.make_plan(snapshot).await?;
        }
        let (mut machine, held_back) = Supervisor::restore(snapshot, self.limits);
        if !held_back.is_empty() {
            self.commit(held_back).await?;
        }
        loop {
            match machine.next() {
                Next::End(status) => return Ok(Outcome::Finished(status)),
                Next::Wait => return Ok(Outcome::Waiting),
                Next::CallModel { turn } => {
                    self.may_go_on()?;
                    let ended = machine.before_turn();
                    if ended.is_empty() {
                        self.take_turn(snapshot, &mut machine, turn).await?;
                    } else {
                        self.commit(ended).await?;
                    }
                }
                Next::RunTool(due) => {
                    self.may_go_on()?;
                    self.run_tool(snapshot, &mut machine, &due).await?;
                }
            }
        }
    }

    fn may_go_on(&self) -> Flow<()> {
        if self.cancel.is_cancelled() {
            return Err(Outcome::LeaseLost);
        }
        if self.pause.is_cancelled() {
            return Err(Outcome::Paused);
        }
        if self.soft.is_cancelled() {
            return Err(Outcome::HandedBack);
        }
        Ok(())
    }

    async fn commit(&self, changes: Vec<Change>) -> Flow<()> {
        self.log.commit(changes).await.map_err(|error| match error {
            CommitError::Ended(_) => Outcome::EndedElsewhere,
            CommitError::Paused => Outcome::Paused,
            CommitError::Fenced => Outcome::LeaseLost,
            CommitError::Unavailable(error) => Outcome::Retry {
                error,
                retry_after: None,
            },
            CommitError::Refused(error) => Outcome::Retry {
                error: format!("change refused: {error}"),
                retry_after: None,
            },
        })
    }

    async fn make_plan(&self, snapshot: &mut Snapshot) -> Flow<()> {
        self.may_go_on()?;
        let planned = match self
            .until_cancelled(planner::plan(self.model, snapshot, &self.cancel))
            .await?
        {
            Ok(planned) => planned,
            Err(error) => return Err(self.model_failed(error).await),
        };
        let Planned {
            plan,
            raw,
            usage,
            model,
            provider,
        } = planned;
        let turn = Turn {
            number: 0,
            actions: vec![],
            raw,
            fault: plan.as_ref().err().cloned(),
        };
        let mut changes = vec![Change::TurnStored {
            turn,
            model,
            provider,
            usage,
        }];
        match plan {
            Ok(plan) => {
                changes.push(Change::PlanStored { plan: plan.clone() });
                changes.push(Change::Status {
                    to: RunStatus::Executing,
                    error: None,
                });
                self.commit(changes).await?;
                snapshot.plan = Some(plan);
                snapshot.status = RunStatus::Executing;
                Ok(())
            }
            Err(fault) => {
                let error = RunError::new("planning_failed", format!("Planning failed: {fault}"));
                changes.push(Change::Log(NewEvent::error(error.message.clone())));
                changes.push(Change::Status {
                    to: RunStatus::Failed,
                    error: Some(error),
                });
                self.commit(changes).await?;
                Err(Outcome::Finished(RunStatus::Failed))
            }
        }
    }

    /// Drops the future when the run is cancelled, so that a model stream is closed at once.
    async fn until_cancelled<T>(&self, work: impl Future<Output = T>) -> Flow<T> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Outcome::LeaseLost),
            () = self.pause.cancelled() => Err(Outcome::Paused),
            done = work => Ok(done),
        }
    }

    async fn model_failed(&self, error: ModelError) -> Outcome {
        let text = error.to_string();
        match error {
            ModelError::Cancelled => Outcome::LeaseLost,
            ModelError::Transient { retry_after, .. } => Outcome::Retry {
                error: text,
                retry_after,
            },
            ModelError::Permanent { .. } => {
                let error = RunError::new("permanent_error", text.clone());
                let changes = vec![
                    Change::Log(NewEvent::error(text.clone())),
                    Change::Status {
                        to: RunStatus::Failed,
                        error: Some(error),
                    },
                ];
                match self.commit(changes).await {
                    Ok(()) => Outcome::PermanentError { error: text },
                    Err(outcome) => outcome,
                }
            }
        }
    }

    async fn take_turn(&self, snapshot: &mut Snapshot, machine: &mut Supervisor, number: u32) -> Flow<()> {
        let request = turn_request(snapshot, number);
        let reply = match self
            .until_cancelled(self.model.call(&request, &self.cancel))
            .await?
        {
            Ok(reply) => reply,
            Err(error) => return Err(self.model_failed(error).await),
        };
        let turn = parse::turn(number, &reply);
        let ModelReply {
            usage,
            model,
            provider,
            ..
        } = reply;
        let mut stored = vec![Change::TurnStored {
            turn: turn.clone(),
            model,
            provider,
            usage,
        }];
        let applied = machine.on_turn(&turn);
        snapshot.turns.push(turn);
        stored.extend(applied.changes);
        let mut next = applied.ending;
        // A tool that is due starts in the same commit: one round trip less per step, and nothing is lost by it.
        if let Next::RunTool(due) = machine.next()
            && !self.soft.is_cancelled()
        {
            next.push(start_step(snapshot, &due));
        }
        self.commit_unless_paused(stored, next).await
    }

    async fn run_tool(&self, snapshot: &mut Snapshot, machine: &mut Supervisor, due: &DueTool) -> Flow<()> {
        let id = step_id(snapshot.run_id, due.turn, due.action);
        if snapshot.step(due.turn, due.action).is_none() {
            let started = start_step(snapshot, due);
            self.commit(vec![started]).await?;
        } else if let Some(step) = snapshot.step_mut(due.turn, due.action)
            && !step.started_here
        {
            step.started_here = true;
            self.commit(vec![Change::StepRestarted { step_id: id }]).await?;
        }
        let begun = self.clock.now();
        let (tool_name, tool_input) = called(due);
        let call = Call {
            run_id: snapshot.run_id,
            step_id: id,
            user_id: &snapshot.user_id,
            tool_name: &tool_name,
            tool_input: &tool_input,
        };
        let result = match self.tools.call(&call, &self.cancel).await {
            Ok(result) => result,
            Err(ToolError::ToModel(result)) => *result,
            Err(ToolError::Cancelled) => return Err(Outcome::LeaseLost),
            Err(ToolError::Retry(error)) => {
                return Err(Outcome::Retry {
                    error,
                    retry_after: None,
                });
            }
        };
        let duration_ms = self.clock.now().duration_since(begun).as_millis() as i64;
        self.settle(snapshot, machine, due, (result, duration_ms)).await
    }

    async fn settle(
        &self,
        snapshot: &mut Snapshot,
        machine: &mut Supervisor,
        due: &DueTool,
        (result, duration_ms): (ToolResult, i64),
    ) -> Flow<()> {
        let id = step_id(snapshot.run_id, due.turn, due.action);
        let status = if result.success {
            StepStatus::Completed
        } else {
            StepStatus::Failed
        };
        let settled = Change::StepSettled {
            step_id: id,
            status,
            result: result.clone(),
            duration_ms,
        };
        // A settled step starts the count of attempts again, in the store as here.
        snapshot.attempt = 1;
        let said = said_to_user(snapshot, due, &result);
        if let Some(step) = snapshot.step_mut(due.turn, due.action) {
            step.status = status;
            step.result = Some(result.clone());
        }
        let applied = machine.on_result(&result);
        let stored = std::iter::once(settled)
            .chain(said)
            .chain(applied.changes)
            .collect();
        self.commit_unless_paused(stored, applied.ending).await
    }

    /// Commits all; when the run was paused meanwhile, only what has already happened. What comes `next` is then found
    /// again after the resume, when the machine is rebuilt.
    async fn commit_unless_paused(&self, happened: Vec<Change>, next: Vec<Change>) -> Flow<()> {
        let all = happened.iter().cloned().chain(next).collect();
        match self.commit(all).await {
            Err(Outcome::Paused) => {
                self.commit(happened).await?;
                Err(Outcome::Paused)
            }
            other => other,
        }
    }
}
