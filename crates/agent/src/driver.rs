//! The driver performs what the supervisor says: it calls the model, runs tools, and commits every change before the next
//! thing is done.
//!
//! Three tokens steer it from outside. `soft`: the process shuts down, hand the run back between two steps. `pause`: let the
//! running step settle and begin nothing. `cancel`: the run was stopped or the lease is lost, end the running step at once
//! and write nothing more.

mod approvals;
mod care;
mod kept_outputs;
mod phases;
mod spending;
mod step_events;
mod together;
mod tool_calls;
mod watch;

use self::care::Care;
use crate::parse;
use crate::planner::{self, Planned};
use crate::ports::{CommitError, Model, ModelReply, RemoteTools, RunLog, Sandbox, Workspace};
use crate::snapshot::Snapshot;
use crate::step::turn_request;
use crate::supervisor::{Limits, Next, Supervisor};
use crate::tools::Router;
use domain::breakage::{self, Breakage};
use domain::change::{Change, RunError};
use domain::waiting::RetryCause;
use domain::{Clock, NewEvent, RunStatus, Turn};
use spending::Asking;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A model reply that is nearly there is not wasted by a shutdown; runs between two steps go back within 2 s.
const REPLY_GRACE: Duration = Duration::from_secs(1);

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
        cause: RetryCause,
        retry_after: Option<Duration>,
    },
    /// The run has failed for a reason no attempt can change; already committed.
    PermanentError { error: String },
}

impl Outcome {
    fn retry(error: String) -> Self {
        Self::Retry {
            error,
            cause: RetryCause::Failure,
            retry_after: None,
        }
    }
}

/// What becomes of an `at_most_once` call whose worker was lost (`AGENT_ON_UNKNOWN`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnUnknown {
    /// The run waits until its user has said it.
    #[default]
    Ask,
    /// The model is told that the outcome is unknown.
    TellModel,
}

/// Everything outside that a drive needs.
#[derive(Debug)]
pub struct Driver<'a, M, W, S, R, L> {
    pub model: &'a M,
    pub tools: Router<'a, W, S, R>,
    pub log: &'a L,
    pub clock: &'a dyn Clock,
    pub limits: Limits,
    pub on_unknown: OnUnknown,
    /// Of the claim this drive is for.
    pub epoch: i64,
    /// Changes kept from the store; only a build that is broken on purpose has any.
    pub withheld: Mutex<Vec<Change>>,
    /// Hand back between steps.
    pub soft: CancellationToken,
    /// The run was paused: let a running step settle, but end a pending model call and begin nothing.
    pub pause: CancellationToken,
    /// Stop the running step.
    pub cancel: CancellationToken,
}

/// What a refused commit means for the drive.
pub fn refused(error: CommitError) -> Outcome {
    match error {
        CommitError::Ended(_) => Outcome::EndedElsewhere,
        CommitError::Paused => Outcome::Paused,
        CommitError::Fenced => Outcome::LeaseLost,
        CommitError::Unavailable(error) => Outcome::retry(error),
        CommitError::Refused(error) => Outcome::retry(format!("change refused: {error}")),
    }
}

/// Either go on or end the drive.
type Flow<T> = Result<T, Outcome>;

impl<M: Model, W: Workspace, S: Sandbox, R: RemoteTools, L: RunLog> Driver<'_, M, W, S, R, L> {
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
        let mut care = self.care();
        loop {
            match machine.next() {
                Next::End(status) => return Ok(Outcome::Finished(status)),
                Next::Wait => return Ok(Outcome::Waiting),
                Next::CallModel { turn } => {
                    self.look_after(snapshot, &mut care).await?;
                    self.may_go_on()?;
                    let mut ended = machine.before_turn();
                    if let Some(plan) = snapshot.plan.as_ref().filter(|_| ended.is_empty()) {
                        ended = machine.outside_plan(plan);
                    }
                    if ended.is_empty() && !self.can_pay().await? {
                        ended = machine.out_of_credits();
                    }
                    if ended.is_empty() {
                        self.take_turn(snapshot, &mut machine, &mut care, turn).await?;
                    } else {
                        self.commit(ended).await?;
                    }
                }
                Next::RunTool(due) => {
                    self.may_go_on()?;
                    if phases::ends_task(&due) {
                        self.end_task(snapshot, &mut machine, &due).await?;
                    } else if let Some(due) = self.admitted(snapshot, &mut machine, due).await? {
                        self.may_begin_step(snapshot, &due).await?;
                        Box::pin(self.run_tool(snapshot, &mut machine, &due)).await?;
                    }
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
        let Some(changes) = self.due_now(changes) else {
            return Ok(());
        };
        let Some(purse) = self.log.purse() else {
            return self.log.commit(changes).await.map_err(refused);
        };
        let (warnings, spent) = purse.account(&changes, self.clock.now());
        let all = warnings.into_iter().map(Change::Log).chain(changes).collect();
        self.log.commit(all).await.map_err(refused)?;
        purse.told(spent);
        Ok(())
    }

    async fn can_pay(&self) -> Flow<bool> {
        self.log.can_pay().await.map_err(refused)
    }

    /// All of them; unless the build is broken on purpose, then a result waits for the next commit.
    fn due_now(&self, mut changes: Vec<Change>) -> Option<Vec<Change>> {
        if !breakage::is(Breakage::ResultBeforeStored) {
            return Some(changes);
        }
        let mut withheld = self.withheld.lock().unwrap_or_else(PoisonError::into_inner);
        let settles = |change: &Change| matches!(change, Change::StepSettled { .. });
        let ends = |change: &Change| matches!(change, Change::Status { .. });
        if changes.iter().any(settles) && !changes.iter().any(ends) {
            withheld.append(&mut changes);
            return None;
        }
        Some(withheld.drain(..).chain(changes).collect())
    }

    async fn make_plan(&self, snapshot: &mut Snapshot) -> Flow<()> {
        self.may_go_on()?;
        let asking = Asking::new(self, snapshot.status);
        let planned = planner::plan(&asking, snapshot).await?;
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
                // A run that was paused before it had a plan executes already.
                if snapshot.status != RunStatus::Executing {
                    changes.push(Change::Status {
                        to: RunStatus::Executing,
                        error: None,
                    });
                }
                if snapshot.gate.plan_only {
                    changes.extend(self.ask_for_plan(snapshot, &plan));
                }
                asking.commit(changes).await?;
                if snapshot.gate.plan_only {
                    return Err(Outcome::Waiting);
                }
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
                asking.commit(changes).await?;
                Err(Outcome::Finished(RunStatus::Failed))
            }
        }
    }

    /// Drops the future when the run is cancelled, so that a model stream is closed at once, and soon after the process was
    /// told to leave: a model call is no step, and the next worker asks again.
    async fn until_cancelled<T>(&self, work: impl Future<Output = T>) -> Flow<T> {
        let leave = async {
            self.soft.cancelled().await;
            tokio::time::sleep(REPLY_GRACE).await;
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Outcome::LeaseLost),
            () = self.pause.cancelled() => Err(Outcome::Paused),
            done = work => Ok(done),
            () = leave => Err(Outcome::HandedBack),
        }
    }

    async fn take_turn(
        &self,
        snapshot: &mut Snapshot,
        machine: &mut Supervisor,
        care: &mut Care,
        number: u32,
    ) -> Flow<()> {
        let messages = care.messages(snapshot);
        let request = turn_request(snapshot, number, messages, self.tools.specs());
        let reply = self.ask(RunStatus::Executing, &request).await?;
        let mut turn = parse::turn(number, &reply);
        self.check_phases(snapshot, &mut turn);
        let ModelReply {
            usage,
            model,
            provider,
            ..
        } = reply;
        let mut stored = care.events();
        stored.push(Change::TurnStored {
            turn: turn.clone(),
            model,
            provider,
            usage,
        });
        let applied = machine.on_turn(&turn);
        snapshot.turns.push(turn);
        stored.extend(applied.changes);
        let mut next = applied.ending;
        self.ride_along(snapshot, machine, &mut next);
        self.commit_unless_paused(stored, next).await
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

/// A vendor that is overloaded, limits us or says when to come back is waited for; everything else is a failure.
fn cause_of(status: Option<u16>, retry_after: Option<Duration>) -> RetryCause {
    const TOO_MANY_REQUESTS: u16 = 429;
    const OVERLOADED: u16 = 529;
    if retry_after.is_some() || matches!(status, Some(TOO_MANY_REQUESTS | OVERLOADED)) {
        RetryCause::ModelLimit
    } else {
        RetryCause::Failure
    }
}
