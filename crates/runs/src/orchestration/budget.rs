//! Changing the budget of a run. One that waits for it goes on in the same commit, when the new one has room.

use super::{CommandError, Committed, Orchestration, refuse};
use crate::authority::load::lock_and_read;
use crate::budget::{self, Funds};
use domain::budget::{BudgetChange, has_room};
use domain::command::Command;
use domain::ids::{JobId, RunId, UserId};
use domain::status::RunStatus;
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
        let waiting_for = locked.run.waiting_for.as_ref();
        let stored = waiting_for.filter(|_| state.status == RunStatus::Paused);
        let row = rows.first().and_then(|rows| rows.first());
        let Some(row) = row else {
            return refuse(locked.tx, CommandError::NotFound).await;
        };
        let funds = Funds::read(row)?;
        let budget = funds.budget.changed(change);
        let command = Command::SetBudget {
            budget,
            goes_on: stored.is_some_and(|waiting_for| has_room(waiting_for, budget)),
            job_id,
        };
        let committed = self.decide_and_commit(locked, command, Duration::ZERO).await?;
        Ok((committed, Funds { budget, ..funds }))
    }
}
