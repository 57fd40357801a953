//! Changing the budget of a run. One that waits for it goes on in the same commit, when the new one has room.

use super::{CommandError, Committed, Orchestration, refuse};
use crate::authority::batch::Batch;
use crate::authority::load::{Locked, lock_and_read};
use crate::budget::{self, Funds};
use crate::figures;
use domain::budget::{BudgetChange, has_room};
use domain::change::Change;
use domain::command::Command;
use domain::decide::{Decision, JobIntent, LeaseIntent, Rejection, decide};
use domain::event::{LogType, NewEvent};
use domain::ids::{JobId, RunId, UserId};
use domain::run::Origin;
use domain::status::RunStatus;
use serde_json::json;
use std::time::Duration;

impl Orchestration {
    /// Sets caps of a run that has not ended. `job_id` is for a run that goes on by it. Gives the funds after the change.
    pub async fn change_budget(
        &self,
        owner: &UserId,
        run_id: RunId,
        change: &BudgetChange,
        job_id: JobId,
    ) -> Result<(Committed, Funds), CommandError> {
        let reads = vec![budget::spent(run_id, self.clock.now(), budget::Of::Any)];
        let locked = lock_and_read(&self.db, run_id, reads).await?;
        let (locked, rows) = locked.ok_or(CommandError::NotFound)?;
        let state = &locked.run.state;
        if state.user_id.as_ref() != Some(owner) {
            return refuse(locked.tx, CommandError::NotFound).await;
        }
        let status = state.status;
        if status.is_final() || state.origin == Origin::Runtime {
            let action = "change the budget of";
            return refuse(locked.tx, Rejection::Transition { action, status }.into()).await;
        }
        let row = rows.first().and_then(|rows| rows.first());
        let Some(row) = row else {
            return refuse(locked.tx, CommandError::NotFound).await;
        };
        let funds = Funds::read(row)?;
        let budget = funds.budget.changed(change);
        let funds = Funds { budget, ..funds };
        let committed = self.commit_budget(locked, funds, job_id).await?;
        Ok((committed, funds))
    }

    async fn commit_budget(
        &self,
        locked: Locked,
        funds: Funds,
        job_id: JobId,
    ) -> Result<Committed, CommandError> {
        let Locked {
            tx,
            run,
            open_steps,
            projection,
        } = locked;
        let waits = run.state.status == RunStatus::Paused;
        let stored = run.waiting_for.as_ref().filter(|_| waits);
        let goes_on = stored.is_some_and(|waiting_for| has_room(waiting_for, funds.budget));
        let mut decision = Decision {
            changes: vec![],
            job: JobIntent::Keep,
            lease: LeaseIntent::Keep,
        };
        if goes_on {
            let resume = Command::Resume {
                user_input: None,
                job_id,
            };
            match decide(&run.state, resume) {
                Ok(resumed) => decision = resumed,
                Err(rejection) => return refuse(tx, rejection.into()).await,
            }
        }
        let metadata = json!({"event": "budget", "budget": funds.budget.to_value()});
        let told = NewEvent::new(LogType::Info, "Budget changed", metadata);
        decision
            .changes
            .splice(0..0, [Change::BudgetSet(funds.budget), Change::Log(told)]);
        let mut batch = Batch::new(self.context(), run, open_steps);
        let job = super::enact(&mut batch, decision, Duration::ZERO);
        let follow_up = super::follow_up(&mut batch, job, false);
        let (statements, run, events) = batch.finish(projection);
        tx.commit(statements)
            .await
            .inspect_err(|_| figures::commit_failed())?;
        Ok(Committed {
            run: run.state,
            events,
            ..follow_up
        })
    }
}
