//! Model calls and their price: what is asked before a call, what is stored of tries that failed, and the pause when a
//! budget leaves no room.

use super::watch::Watch;
use super::{Driver, Flow, Outcome, cause_of, refused};
use crate::planner::Asks;
use crate::ports::{
    FailedCall, Model, ModelError, ModelReply, ModelRequest, Purpose, RemoteTools, RunLog, Sandbox, Workspace,
};
use crate::purse::{request_tokens, tokens, worst_case};
use crate::snapshot::Snapshot;
use crate::supervisor::DueTool;
use domain::budget::{Reached, Spend, price_unknown};
use domain::change::{Change, RunError};
use domain::waiting::{WaitKind, waiting};
use domain::{NewEvent, RunStatus, Usage};
use serde_json::{Value, json};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Asks the model on behalf of a run in this status.
pub(super) struct Asking<'d, 'a, M, W, S, R, L> {
    pub(super) driver: &'d Driver<'a, M, W, S, R, L>,
    pub(super) status: RunStatus,
    /// The record of a reply that may turn out to hold no plan; stored before the next call.
    unstored: Mutex<Option<Change>>,
}

impl<'d, 'a, M, W, S, R, L> Asking<'d, 'a, M, W, S, R, L> {
    pub(super) fn new(driver: &'d Driver<'a, M, W, S, R, L>, status: RunStatus) -> Self {
        Self {
            driver,
            status,
            unstored: Mutex::default(),
        }
    }

    fn unstored(&self) -> MutexGuard<'_, Option<Change>> {
        self.unstored.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Model, W: Workspace, S: Sandbox, R: RemoteTools, L: RunLog> Asking<'_, '_, M, W, S, R, L> {
    /// Stores what the last reply led to. A run that was paused meanwhile takes no plan; what the reply used is stored all the
    /// same, and the plan is asked for again after the resume.
    pub(super) async fn commit(&self, changes: Vec<Change>) -> Flow<()> {
        match self.driver.commit(changes).await {
            Err(Outcome::Paused) => {
                let billed = self.unstored().take();
                self.driver.commit(billed.into_iter().collect()).await?;
                Err(Outcome::Paused)
            }
            other => other,
        }
    }
}

impl<M: Model, W: Workspace, S: Sandbox, R: RemoteTools, L: RunLog> Asks for Asking<'_, '_, M, W, S, R, L> {
    type Stop = Outcome;

    async fn ask(&self, request: &ModelRequest) -> Result<ModelReply, Outcome> {
        let before = self.unstored().take();
        if let Some(billed) = before {
            self.driver.commit(vec![billed]).await?;
        }
        let reply = self.driver.ask(self.status, request).await?;
        *self.unstored() = Some(Change::CallBilled {
            key: format!(
                "{}:{}:reply:{}",
                request.run_id,
                kind_of(request),
                self.driver.epoch
            ),
            model: reply.model.clone(),
            provider: reply.provider.clone(),
            usage: reply.usage,
        });
        Ok(reply)
    }
}

impl<M: Model, W: Workspace, S: Sandbox, R: RemoteTools, L: RunLog> Driver<'_, M, W, S, R, L> {
    /// One model call, its retries included. What its failed tries used is stored before anything else happens.
    pub(super) async fn ask(&self, status: RunStatus, request: &ModelRequest) -> Flow<ModelReply> {
        let worst = self.may_spend(status, request).await?;
        let watch = Watch::new(self.log, self.clock, turn_of(request), worst);
        let called = self.model.call_watched(request, &watch, &self.cancel);
        let called = self.until_cancelled(called).await;
        watch.end();
        let mut failed = watch.failed_tries();
        if let Err(Outcome::Paused | Outcome::HandedBack) = &called {
            failed.extend(self.cut_off(request, watch.said()));
        }
        if !failed.is_empty() {
            self.commit(self.billed(request, failed)).await?;
        }
        match called? {
            Ok(reply) => {
                if let Some(purse) = self.log.purse() {
                    purse.add_call(reply.usage);
                }
                Ok(reply)
            }
            Err(error) => Err(self.model_failed(status, error).await),
        }
    }

    /// What a call has used by our count that was ended after so many characters of its reply; one that had not begun to answer
    /// counts nothing.
    fn cut_off(&self, request: &ModelRequest, said: usize) -> Option<FailedCall> {
        let mut usage = Usage {
            input_tokens: request_tokens(request),
            output_tokens: tokens(said),
            is_estimated: true,
            ..Usage::default()
        };
        usage.cost_micros = self.model.price().map(|price| price.cost(usage));
        let (provider, model) = self.model.identity();
        (said > 0).then_some(FailedCall {
            model,
            provider,
            usage,
        })
    }

    /// Whether the worst case of the call fits; it is set aside where caps of a day need that.
    async fn may_spend(&self, status: RunStatus, request: &ModelRequest) -> Flow<Spend> {
        let price = self.model.price();
        let worst = worst_case(request, price);
        let purse = self.log.purse();
        let capped = self.log.caps_money() || purse.is_some_and(crate::purse::Purse::caps_money);
        if capped && price.is_none() {
            let (_, model) = self.model.identity();
            let waiting_for = price_unknown(&model);
            let detail = waiting_for["detail"].as_str().unwrap_or_default();
            let mut event = NewEvent::error(format!("Paused: {detail}"));
            event
                .metadata
                .insert("event".to_owned(), json!("budget_price_unknown"));
            event.metadata.insert("model".to_owned(), json!(model));
            return Err(self.wait_paused(status, event, waiting_for).await);
        }
        let reached = |purse: &crate::purse::Purse| purse.reached_by_call(worst, self.clock.now());
        if let Some(over) = self.still(reached).await? {
            return Err(self.over_budget(status, over).await);
        }
        let day = self.log.reserve(turn_of(request), worst).await;
        match day.map_err(refused)? {
            Some(over) => Err(self.over_budget(status, over).await),
            None => Ok(worst),
        }
    }

    /// What is reached, also by the caps as they are now: they may have been raised while the run was under way.
    async fn still(
        &self,
        reached: impl Fn(&crate::purse::Purse) -> Option<Reached>,
    ) -> Flow<Option<Reached>> {
        let Some(purse) = self.log.purse() else {
            return Ok(None);
        };
        if reached(purse).is_none() {
            return Ok(None);
        }
        self.log.refresh_purse().await.map_err(refused)?;
        Ok(reached(purse))
    }

    /// Before a step that was not begun yet.
    pub(super) async fn may_begin_step(&self, snapshot: &Snapshot, due: &DueTool) -> Flow<()> {
        if snapshot.step(due.turn, due.action).is_some() {
            return Ok(());
        }
        match self
            .still(|purse| purse.reached_by_step(name_of(due), 0, self.clock.now()))
            .await?
        {
            Some(over) => Err(self.over_budget(RunStatus::Executing, over).await),
            None => Ok(()),
        }
    }

    /// Whether a step may ride along with a commit that begins these already; one that may not is judged again on its own.
    pub(super) fn has_room_for_step(&self, due: &DueTool, commit: &[Change]) -> bool {
        let begins = |change: &&Change| matches!(change, Change::StepStarted(_));
        let before = commit.iter().filter(begins).count();
        let reached =
            |purse: &crate::purse::Purse| purse.reached_by_step(name_of(due), before, self.clock.now());
        self.log.purse().and_then(reached).is_none()
    }

    async fn over_budget(&self, status: RunStatus, over: Reached) -> Outcome {
        self.wait_paused(status, over.event(), over.waiting_for()).await
    }

    /// Pauses the run with a reason; nothing is lost, and it goes on here once it is resumed.
    async fn wait_paused(&self, status: RunStatus, event: NewEvent, waiting_for: Value) -> Outcome {
        let mut changes = vec![Change::Log(event), Change::Waiting(Some(waiting_for))];
        let to = |to| Change::Status { to, error: None };
        // Only a run that executes may be paused; its plan is made after the resume.
        if status == RunStatus::Planning {
            changes.push(to(RunStatus::Executing));
        }
        changes.push(to(RunStatus::Paused));
        match self.commit(changes).await {
            // That commit has let go of run and job.
            Ok(()) => Outcome::Waiting,
            Err(outcome) => outcome,
        }
    }

    /// Token records of tries that failed. Their keys name the claim: another one may fail at the same turn.
    fn billed(&self, request: &ModelRequest, failed: Vec<FailedCall>) -> Vec<Change> {
        let (run_id, epoch) = (request.run_id, self.epoch);
        let kind = kind_of(request);
        let billed = |(place, call): (u32, FailedCall)| {
            if let Some(purse) = self.log.purse() {
                purse.add_call(call.usage);
            }
            Change::CallBilled {
                key: format!("{run_id}:{kind}:failed:{epoch}:{place}"),
                model: call.model,
                provider: call.provider,
                usage: call.usage,
            }
        };
        (1..).zip(failed).map(billed).collect()
    }

    async fn model_failed(&self, status: RunStatus, error: ModelError) -> Outcome {
        let text = error.to_string();
        match error {
            ModelError::Cancelled => Outcome::LeaseLost,
            ModelError::Transient {
                retry_after, status, ..
            } => Outcome::Retry {
                error: text,
                cause: cause_of(status, retry_after),
                retry_after,
            },
            ModelError::Spent { .. } => {
                let metadata = json!({"event": "model_spent"});
                let event = NewEvent::warning(format!("Paused: {text}"), metadata);
                let detail = format!("{text}; resume the run once the vendor's limit is raised");
                self.wait_paused(status, event, waiting(WaitKind::ModelBackoff, &detail))
                    .await
            }
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
}

fn name_of(due: &DueTool) -> &str {
    due.call.tool_name.as_deref().unwrap_or_default()
}

/// The call's part of a record's key.
fn kind_of(request: &ModelRequest) -> String {
    match request.purpose {
        Purpose::Plan { repairs } => format!("plan:{repairs}"),
        Purpose::Turn { number } => format!("turn:{number}"),
    }
}

/// Turn 0 is the planner's.
const fn turn_of(request: &ModelRequest) -> u32 {
    match request.purpose {
        Purpose::Plan { .. } => 0,
        Purpose::Turn { number } => number,
    }
}
