//! A budget set while the run is under way.

use super::{Decision, Rejection, resume};
use crate::budget::Budget;
use crate::change::Change;
use crate::event::{LogType, NewEvent};
use crate::ids::JobId;
use crate::run::{Origin, RunState};
use serde_json::json;

/// Stores the budget; a run that waited for it goes on as after a resume, in the same decision.
pub(super) fn set(
    run: &RunState,
    budget: Budget,
    goes_on: bool,
    job_id: JobId,
) -> Result<Decision, Rejection> {
    if run.status.is_final() || run.origin == Origin::Runtime {
        return Err(Rejection::Transition {
            action: "change the budget of",
            status: run.status,
        });
    }
    let mut decision = if goes_on {
        resume(run, None, job_id)?
    } else {
        Decision::of(vec![])
    };
    let metadata = json!({"event": "budget", "budget": budget.to_value()});
    let told = NewEvent::new(LogType::Info, "Budget changed", metadata);
    // The log says why the run goes on before it does.
    decision
        .changes
        .splice(0..0, [Change::BudgetSet(budget), Change::Log(told)]);
    Ok(decision)
}

#[cfg(test)]
mod tests {
    use crate::budget::{Budget, Dimension};
    use crate::change::Change;
    use crate::command::Command;
    use crate::decide::testing::{job, run};
    use crate::decide::{Decision, JobIntent, LeaseIntent, Rejection, decide};
    use crate::ids::StepId;
    use crate::run::{Origin, RunState};
    use crate::status::RunStatus;
    use serde_json::json;
    use uuid::Uuid;

    fn budget() -> Budget {
        Budget::default().with(Dimension::Tokens, Some(500))
    }

    fn set(run: &RunState, goes_on: bool) -> Result<Decision, Rejection> {
        let job_id = job();
        let budget = budget();
        decide(
            run,
            Command::SetBudget {
                budget,
                goes_on,
                job_id,
            },
        )
    }

    #[test]
    fn a_budget_is_set_and_told_wherever_a_run_of_ours_stands_before_its_end() {
        for status in RunStatus::ALL {
            let decided = set(&run(status), false);
            if status.is_final() {
                let action = "change the budget of";
                assert_eq!(decided, Err(Rejection::Transition { action, status }));
                continue;
            }
            let decision = decided.unwrap();
            let [Change::BudgetSet(stored), Change::Log(told)] = decision.changes.as_slice() else {
                panic!("{status}: {decision:?}");
            };
            assert_eq!(*stored, budget());
            assert_eq!(told.message, "Budget changed");
            let metadata = json!({"event": "budget", "budget": budget().to_value()});
            assert_eq!(json!(told.metadata), metadata);
            assert_eq!(
                (decision.job, decision.lease),
                (JobIntent::Keep, LeaseIntent::Keep)
            );
        }
    }

    #[test]
    fn a_run_of_other_workers_has_no_budget_of_ours() {
        let foreign = RunState {
            origin: Origin::Runtime,
            ..run(RunStatus::Executing)
        };
        let refused = set(&foreign, false).unwrap_err().to_string();
        assert_eq!(refused, "cannot change the budget of run in status: executing");
    }

    #[test]
    fn a_run_that_waited_for_room_goes_on_as_after_a_resume() {
        let paused = run(RunStatus::Paused);
        let mut decision = set(&paused, true).unwrap();
        let told = decision.changes.drain(..2).collect::<Vec<_>>();
        assert!(
            matches!(told.as_slice(), [Change::BudgetSet(_), Change::Log(_)]),
            "{told:?}"
        );
        let resume = Command::Resume {
            user_input: None,
            job_id: job(),
        };
        assert_eq!(Ok(decision), decide(&paused, resume));
    }

    #[test]
    fn what_stands_in_the_way_of_a_resume_refuses_the_budget_too() {
        let step_id = StepId(Uuid::from_u128(3));
        let paused = RunState {
            unknown_step: Some(step_id),
            ..run(RunStatus::Paused)
        };
        assert_eq!(set(&paused, true), Err(Rejection::EffectUnknown(step_id)));
        assert!(set(&paused, false).is_ok());
    }
}
