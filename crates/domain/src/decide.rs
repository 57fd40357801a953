//! The state machine: a run's present state and a command lead to changes and what becomes of its job,
//! or to a rejection. Pure; called by the authority under the run row's lock.

mod budget;
mod effects;
mod interrupts;
mod leases;
#[cfg(test)]
mod testing;

use crate::change::{Change, NewMessage, RunError};
use crate::command::{Command, Expiry};
use crate::event::NewEvent;
use crate::ids::{InterruptId, JobId, MessageId, StepId, WorkerId};
use crate::run::{Origin, RunState};
use crate::status::RunStatus;
use crate::waiting::RetryCause;
use serde_json::json;

/// What becomes of the run's queue entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobIntent {
    /// Nothing changes.
    Keep,
    /// A new entry under this id (outbox row in the same transaction).
    Enqueue(JobId),
    /// The run needs no entry any more; take it out of whatever list holds it.
    Remove,
}

/// What becomes of the lease columns of the run row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseIntent {
    Keep,
    /// Raise the epoch, set owner and lease end.
    Take(WorkerId),
    /// The worker lets go.
    Drop,
    /// As `Drop`, with one more retry used and `next_retry_at` set.
    DropForRetry {
        after_ms: i64,
        error: String,
        cause: RetryCause,
    },
}

/// What a command leads to. All of it is committed in one transaction, or nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    pub changes: Vec<Change>,
    pub job: JobIntent,
    pub lease: LeaseIntent,
}

impl Decision {
    fn of(changes: Vec<Change>) -> Self {
        Self {
            changes,
            job: JobIntent::Keep,
            lease: LeaseIntent::Keep,
        }
    }

    fn job(mut self, job: JobIntent) -> Self {
        self.job = job;
        self
    }

    fn lease(mut self, lease: LeaseIntent) -> Self {
        self.lease = lease;
        self
    }
}

/// Why a command changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// `Start` on a run that is already under way: answered as success.
    #[error("run is already {0}")]
    AlreadyRunning(RunStatus),
    #[error("cannot {action} run in status: {status}")]
    Transition { action: &'static str, status: RunStatus },
    #[error("the run has ended: {0}")]
    Ended(RunStatus),
    #[error("the run is paused")]
    Paused,
    #[error("the run waits for its user")]
    WaitsForUser,
    /// A tool call's outcome must be told first.
    #[error("the outcome of step {0} is unknown")]
    EffectUnknown(StepId),
    #[error("the outcome of step {0} is not in question")]
    NotUnknown(StepId),
    /// Tool calls or the plan must be approved first.
    #[error("{} interrupt(s) are open", .0.len())]
    ApprovalOpen(Vec<InterruptId>),
    /// Decided already, cancelled, or none of this run.
    #[error("interrupt {0} is not open")]
    InterruptClosed(InterruptId),
    #[error("interrupt {0} has expired")]
    InterruptExpired(InterruptId),
    #[error("interrupt {0} is not decided this way")]
    WrongDecision(InterruptId),
    #[error("the run is held by worker {0}")]
    Held(WorkerId),
    #[error("the run is not driven by our workers")]
    Foreign,
    #[error("status cannot change from {from} to {to}")]
    Illegal { from: RunStatus, to: RunStatus },
}

/// Decides; see the module's documentation.
pub fn decide(run: &RunState, command: Command) -> Result<Decision, Rejection> {
    match command {
        Command::Start { job_id } => start(run, job_id),
        Command::Stop => stop(run),
        Command::Pause => pause(run),
        Command::Resume { user_input, job_id } => resume(run, user_input, job_id),
        Command::SettleEffect {
            step_id,
            verdict,
            job_id,
        } => effects::settle(run, step_id, verdict, job_id),
        Command::Decide {
            interrupt_id,
            verdict,
            now,
            job_id,
        } => interrupts::decide_one(run, (interrupt_id, verdict), now, job_id),
        Command::ExpireInterrupts { now, job_id } => interrupts::expire(run, now, job_id),
        Command::SetBudget {
            budget,
            goes_on,
            job_id,
        } => budget::set(run, budget, goes_on, job_id),
        Command::Claim { worker, job_id } => leases::claim(run, worker, job_id),
        Command::Progress(changes) => progress(run, changes),
        Command::Release(release) => Ok(leases::release(run, release)),
        Command::Expire(expiry) => expire(run, expiry),
    }
}

fn status(to: RunStatus) -> Change {
    Change::Status { to, error: None }
}

fn start(run: &RunState, job_id: JobId) -> Result<Decision, Rejection> {
    if run.origin == Origin::Runtime {
        return Err(Rejection::Transition {
            action: "start",
            status: run.status,
        });
    }
    match run.status {
        RunStatus::Created => {
            Ok(Decision::of(vec![status(RunStatus::Queued)]).job(JobIntent::Enqueue(job_id)))
        }
        RunStatus::Queued | RunStatus::Planning | RunStatus::Executing => {
            Err(Rejection::AlreadyRunning(run.status))
        }
        other => Err(Rejection::Transition {
            action: "start",
            status: other,
        }),
    }
}

fn stop(run: &RunState) -> Result<Decision, Rejection> {
    if run.status.is_final() {
        return Err(Rejection::Transition {
            action: "cancel",
            status: run.status,
        });
    }
    let mut changes = Vec::with_capacity(3);
    if run.lease.is_some() {
        let metadata = json!({"event": "cancel_requested", "requested_by": "user"});
        changes.push(Change::Log(NewEvent::new(
            crate::event::LogType::Info,
            "Stop requested",
            metadata,
        )));
    }
    changes.push(Change::CancelRunningSteps);
    changes.push(status(RunStatus::Cancelled));
    Ok(Decision::of(changes)
        .job(JobIntent::Remove)
        .lease(LeaseIntent::Drop))
}

fn pause(run: &RunState) -> Result<Decision, Rejection> {
    if run.status != RunStatus::Executing || run.origin == Origin::Runtime {
        return Err(Rejection::Transition {
            action: "pause",
            status: run.status,
        });
    }
    // A held job leaves `processing` when its worker lets go after the running step; an unheld one at once.
    let held = run.lease.as_ref().is_some_and(|lease| lease.alive);
    let job = if held { JobIntent::Keep } else { JobIntent::Remove };
    // What it waited for until now is not what it waits for while it is paused.
    Ok(Decision::of(vec![Change::Waiting(None), status(RunStatus::Paused)]).job(job))
}

fn resume(
    run: &RunState,
    user_input: Option<(MessageId, String)>,
    job_id: JobId,
) -> Result<Decision, Rejection> {
    if !matches!(run.status, RunStatus::WaitingUser | RunStatus::Paused) {
        return Err(Rejection::Transition {
            action: "resume",
            status: run.status,
        });
    }
    if let Some(step_id) = run.unknown_step {
        return Err(Rejection::EffectUnknown(step_id));
    }
    let mut changes = interrupts::answered(run, user_input.as_ref().map(|(_, text)| text))?;
    if let Some((id, content)) = user_input {
        changes.push(Change::MessageAdded(NewMessage {
            id,
            role: "user",
            content,
            step_id: None,
            silent: false,
        }));
    }
    changes.push(Change::Waiting(None));
    changes.push(status(RunStatus::Executing));
    Ok(Decision::of(changes).job(JobIntent::Enqueue(job_id)))
}

fn progress(run: &RunState, changes: Vec<Change>) -> Result<Decision, Rejection> {
    let mut present = run.status;
    for change in &changes {
        match present {
            ended if ended.is_final() => return Err(Rejection::Ended(ended)),
            RunStatus::Paused if !change.allowed_while_paused() => return Err(Rejection::Paused),
            _ => {}
        }
        if let Change::Status { to, .. } = change {
            if !present.may_become(*to) {
                return Err(Rejection::Illegal {
                    from: present,
                    to: *to,
                });
            }
            present = *to;
        }
    }
    let decision = Decision::of(changes);
    // A worker that asks its user or pauses its own run lets go of it.
    let leaves = matches!(present, RunStatus::WaitingUser | RunStatus::Paused) && run.status != present;
    if present.is_final() || leaves {
        return Ok(decision.job(JobIntent::Remove).lease(LeaseIntent::Drop));
    }
    Ok(decision)
}

fn every_attempt_failed(run: &RunState) -> String {
    match &run.last_error {
        Some(error) => format!("Every attempt failed: {error}"),
        None => "Every attempt failed".to_owned(),
    }
}

fn expire(run: &RunState, expiry: Expiry) -> Result<Decision, Rejection> {
    if run.status.is_final() {
        return Err(Rejection::Ended(run.status));
    }
    let (to, error) = match expiry {
        Expiry::RunDeadline => (
            RunStatus::Timeout,
            RunError::new("run_deadline", "Run deadline exceeded"),
        ),
        Expiry::WaitingForUser => (
            RunStatus::Timeout,
            RunError::new("waiting_timeout", "Waiting for user input timed out"),
        ),
        Expiry::MaxAttempts => (
            RunStatus::Failed,
            RunError::new("max_attempts", every_attempt_failed(run)),
        ),
        Expiry::Poison => (
            RunStatus::Failed,
            RunError::new("poison", "The run's workers died too often in a row"),
        ),
    };
    if !run.status.may_become(to) {
        return Err(Rejection::Illegal { from: run.status, to });
    }
    let changes = vec![
        Change::CancelRunningSteps,
        Change::Status {
            to,
            error: Some(error),
        },
    ];
    Ok(Decision::of(changes)
        .job(JobIntent::Remove)
        .lease(LeaseIntent::Drop))
}

#[cfg(test)]
mod tests {
    use super::testing::{job, run};
    use super::*;
    use crate::command::{EffectDecision, Release, Verdict};
    use crate::run::Lease;
    use uuid::Uuid;

    fn end_status(from: RunStatus, decision: &Decision) -> RunStatus {
        let mut present = from;
        for change in &decision.changes {
            if let Change::Status { to, .. } = change {
                assert!(present.may_become(*to), "{present} -> {to}");
                present = *to;
            }
        }
        present
    }

    #[test]
    fn users_commands_are_allowed_exactly_from_the_listed_statuses() {
        use RunStatus as S;
        for status in S::ALL {
            let run = run(status);
            assert_eq!(
                decide(&run, Command::Start { job_id: job() }).is_ok(),
                status == S::Created
            );
            let stopped = decide(&run, Command::Stop);
            assert_eq!(stopped.is_ok(), !status.is_final(), "{status}");
            assert_eq!(decide(&run, Command::Pause).is_ok(), status == S::Executing);
            let resumed = decide(
                &run,
                Command::Resume {
                    user_input: None,
                    job_id: job(),
                },
            );
            assert_eq!(resumed.is_ok(), matches!(status, S::WaitingUser | S::Paused));
        }
    }

    #[test]
    fn every_decision_walks_only_along_the_table() {
        for status in RunStatus::ALL {
            for command in [
                Command::Start { job_id: job() },
                Command::Stop,
                Command::Pause,
                Command::Resume {
                    user_input: Some((MessageId(Uuid::nil()), "x".into())),
                    job_id: job(),
                },
                Command::SettleEffect {
                    step_id: StepId(Uuid::nil()),
                    verdict: verdict(EffectDecision::Done),
                    job_id: job(),
                },
                Command::Claim {
                    worker: "w".into(),
                    job_id: job(),
                },
                Command::Release(Release::HandBack),
                Command::Release(Release::Done),
                Command::Release(Release::Retry {
                    after_ms: 5,
                    error: "e".into(),
                    cause: RetryCause::Failure,
                }),
                Command::Expire(Expiry::RunDeadline),
                Command::Expire(Expiry::WaitingForUser),
                Command::Expire(Expiry::MaxAttempts),
                Command::Expire(Expiry::Poison),
            ] {
                if let Ok(decision) = decide(&run(status), command) {
                    let end = end_status(status, &decision);
                    assert!(!(end.is_final() && decision.job == JobIntent::Keep && status != end));
                }
            }
        }
    }

    fn verdict(decision: EffectDecision) -> Verdict {
        Verdict {
            decision,
            output: None,
            note: None,
            epoch: None,
        }
    }

    #[test]
    fn an_unknown_effect_is_settled_by_its_step_alone_and_stands_in_the_way_of_a_resume() {
        let step_id = StepId(Uuid::from_u128(3));
        let waiting = RunState {
            unknown_step: Some(step_id),
            ..run(RunStatus::WaitingUser)
        };
        let settle = |step_id, decision| Command::SettleEffect {
            step_id,
            verdict: verdict(decision),
            job_id: job(),
        };
        for decision in EffectDecision::ALL {
            let settled = decide(&waiting, settle(step_id, decision)).unwrap();
            assert_eq!(settled.job, JobIntent::Enqueue(job()));
            assert_eq!(end_status(RunStatus::WaitingUser, &settled), RunStatus::Executing);
            let again = settled
                .changes
                .iter()
                .any(|change| matches!(change, Change::StepReset { .. }));
            assert_eq!(again, decision == EffectDecision::Retry);
        }
        let late = Command::SettleEffect {
            step_id,
            verdict: Verdict {
                epoch: Some(waiting.epoch - 1),
                ..verdict(EffectDecision::Retry)
            },
            job_id: job(),
        };
        assert_eq!(decide(&waiting, late), Err(Rejection::NotUnknown(step_id)));
        let other = StepId(Uuid::from_u128(4));
        let refused = decide(&waiting, settle(other, EffectDecision::Done));
        assert_eq!(refused, Err(Rejection::NotUnknown(other)));
        let refused = decide(
            &run(RunStatus::WaitingUser),
            settle(step_id, EffectDecision::Done),
        );
        assert_eq!(refused, Err(Rejection::NotUnknown(step_id)));
        let resume = Command::Resume {
            user_input: None,
            job_id: job(),
        };
        assert_eq!(decide(&waiting, resume), Err(Rejection::EffectUnknown(step_id)));
    }

    #[test]
    fn the_last_error_is_told_when_every_attempt_has_failed() {
        let failed = RunState {
            last_error: Some("model call failed: overloaded".to_owned()),
            ..run(RunStatus::Executing)
        };
        let decision = decide(&failed, Command::Expire(Expiry::MaxAttempts)).unwrap();
        let told = decision.changes.iter().any(|change| {
            matches!(change, Change::Status { error: Some(error), .. }
                if error.message == "Every attempt failed: model call failed: overloaded")
        });
        assert!(told, "{decision:?}");
    }

    #[test]
    fn a_second_start_is_told_the_present_status() {
        let again = decide(&run(RunStatus::Executing), Command::Start { job_id: job() });
        assert_eq!(again, Err(Rejection::AlreadyRunning(RunStatus::Executing)));
    }

    #[test]
    fn a_live_lease_of_another_worker_is_never_taken_over() {
        let mut held = run(RunStatus::Executing);
        held.lease = Some(Lease {
            owner: "a".into(),
            alive: true,
        });
        let claim = |worker: &str| Command::Claim {
            worker: worker.into(),
            job_id: job(),
        };
        assert_eq!(decide(&held, claim("b")), Err(Rejection::Held("a".into())));
        assert!(decide(&held, claim("a")).is_ok());
        held.lease = Some(Lease {
            owner: "a".into(),
            alive: false,
        });
        let taken = decide(&held, claim("b")).unwrap();
        assert_eq!(taken.lease, LeaseIntent::Take("b".into()));
        assert_eq!(taken.changes.len(), 1, "the take-over is in the log");
    }

    #[test]
    fn after_the_end_nothing_is_written() {
        let late = Command::Progress(vec![Change::Log(NewEvent::info("late"))]);
        assert_eq!(
            decide(&run(RunStatus::Cancelled), late),
            Err(Rejection::Ended(RunStatus::Cancelled))
        );
        let after_own_end = Command::Progress(vec![
            Change::Status {
                to: RunStatus::Completed,
                error: None,
            },
            Change::Log(NewEvent::info("late")),
        ]);
        assert!(decide(&run(RunStatus::Executing), after_own_end).is_err());
    }

    #[test]
    fn a_paused_run_takes_the_running_steps_result_and_begins_nothing() {
        let step_id = crate::ids::StepId(Uuid::nil());
        let settled = Change::StepSettled {
            step_id,
            status: crate::run::StepStatus::Completed,
            result: crate::tool::ToolResult::ok(json!({}), 1.0),
            duration_ms: 5,
        };
        assert!(decide(&run(RunStatus::Paused), Command::Progress(vec![settled])).is_ok());
        let restart = Command::Progress(vec![Change::StepRestarted { step_id }]);
        assert_eq!(decide(&run(RunStatus::Paused), restart), Err(Rejection::Paused));
    }

    #[test]
    fn asking_the_user_or_pausing_frees_worker_and_job() {
        for to in [RunStatus::WaitingUser, RunStatus::Paused] {
            let ask = Command::Progress(vec![Change::Status { to, error: None }]);
            let decision = decide(&run(RunStatus::Executing), ask).unwrap();
            assert_eq!(
                (decision.job, decision.lease),
                (JobIntent::Remove, LeaseIntent::Drop)
            );
        }
    }
}
