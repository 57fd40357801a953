//! Limits that ran out: of the platform, and of those who were asked.

use super::{CommandError, Committed, Orchestration, refuse};
use crate::authority::batch::Context;
use crate::authority::row::RunRow;
use domain::command::{Command, Expiry};
use domain::decide::Rejection;
use domain::ids::{JobId, RunId};
use domain::status::RunStatus;
use std::time::Duration;

impl Orchestration {
    /// A limit of the platform ran out.
    pub async fn expire(&self, run_id: RunId, expiry: Expiry) -> Result<Committed, CommandError> {
        self.expire_because(run_id, expiry, None).await
    }

    /// As [`Orchestration::expire`]; the last failure, which the run itself has not stored yet, is told with it.
    pub async fn expire_because(
        &self,
        run_id: RunId,
        expiry: Expiry,
        error: Option<&str>,
    ) -> Result<Committed, CommandError> {
        let mut locked = self.lock(run_id).await?;
        if let Some(error) = error {
            locked.run.state.last_error = Some(error.to_owned());
        }
        if let Some(early) = not_yet(&locked.run, expiry, &self.context()) {
            return refuse(locked.tx, early.into()).await;
        }
        self.decide_and_commit(locked, Command::Expire(expiry), Duration::ZERO)
            .await
    }

    /// Interrupts that nobody decided in time count as rejected; after the last one the run goes on.
    pub async fn expire_interrupts(&self, run_id: RunId) -> Result<Committed, CommandError> {
        let command = Command::ExpireInterrupts {
            now: self.clock.now(),
            job_id: JobId(self.ids.uuid()),
        };
        let locked = self.lock(run_id).await?;
        self.decide_and_commit(locked, command, Duration::ZERO).await
    }
}

/// A sweep decides on what it read a moment ago; the deadline may have moved since.
fn not_yet(run: &RunRow, expiry: Expiry, context: &Context<'_>) -> Option<Rejection> {
    let to = RunStatus::Timeout;
    let early = Rejection::Illegal {
        from: run.state.status,
        to,
    };
    let working = matches!(run.state.status, RunStatus::Planning | RunStatus::Executing);
    match expiry {
        Expiry::RunDeadline if !run.state.status.is_final() => {
            let passed = run
                .times
                .deadline_at
                .is_some_and(|deadline| deadline <= context.now);
            (!working || !passed).then_some(early)
        }
        Expiry::WaitingForUser if !run.state.status.is_final() => {
            (run.state.status != RunStatus::WaitingUser).then_some(early)
        }
        _ => None,
    }
}
