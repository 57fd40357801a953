//! Interrupts decided: whatever the order, the run goes on once, with the last one.

use super::{Decision, JobIntent, LeaseIntent, Rejection, status};
use crate::change::{Change, NewMessage, RunError};
use crate::event::{LogType, NewEvent};
use crate::ids::{InterruptId, JobId};
use crate::interrupt::{InterruptDecision, InterruptKind, InterruptStatus, InterruptVerdict, OpenInterrupt};
use crate::run::RunState;
use crate::status::RunStatus;
use crate::waiting::{interrupted, open_in_words};
use jiff::Timestamp;
use serde_json::{Value, json};

/// A person decides about one.
pub(super) fn decide_one(
    run: &RunState,
    (id, verdict): (InterruptId, InterruptVerdict),
    now: Timestamp,
    job_id: JobId,
) -> Result<Decision, Rejection> {
    let open = run.interrupts.iter().find(|open| open.id == id);
    let Some(open) = open.filter(|_| run.status == RunStatus::WaitingUser) else {
        return Err(Rejection::InterruptClosed(id));
    };
    if open.is_expired(now) {
        return Err(Rejection::InterruptExpired(id));
    }
    let is_plan = open.kind == InterruptKind::Plan;
    let other_input = match &verdict {
        InterruptVerdict::Edit(_) => is_plan,
        InterruptVerdict::EditPlan(_) => !is_plan,
        _ => false,
    };
    if other_input || !verdict.decision().fits(open.kind) {
        return Err(Rejection::WrongDecision(id));
    }
    let mut changes = vec![
        told(open, &verdict),
        closed(
            id,
            InterruptStatus::Resolved,
            Some(verdict.decision()),
            verdict.response(),
        ),
    ];
    match verdict {
        InterruptVerdict::Reject { reason } if open.kind == InterruptKind::Plan => {
            return Ok(plan_rejected(changes, reason.as_deref()));
        }
        InterruptVerdict::EditPlan(plan) => changes.push(Change::PlanStored { plan }),
        // The answer to a question of a tool is that tool's result.
        InterruptVerdict::Answer { text, message_id } if open.tool_name.is_none() => {
            changes.push(Change::MessageAdded(NewMessage {
                id: message_id,
                role: "user",
                content: text,
                step_id: None,
                silent: false,
            }));
        }
        _ => {}
    }
    let left: Vec<OpenInterrupt> = run
        .interrupts
        .iter()
        .filter(|other| other.id != id)
        .cloned()
        .collect();
    Ok(go_on(changes, &left, job_id))
}

/// Those past their time count as rejected.
pub(super) fn expire(run: &RunState, now: Timestamp, job_id: JobId) -> Result<Decision, Rejection> {
    let (late, left): (Vec<_>, Vec<_>) = run
        .interrupts
        .iter()
        .cloned()
        .partition(|open| open.is_expired(now));
    if run.status != RunStatus::WaitingUser || late.is_empty() {
        return Err(Rejection::Illegal {
            from: run.status,
            to: RunStatus::Executing,
        });
    }
    let mut changes = vec![];
    for open in &late {
        let name = open.tool_name.as_deref().unwrap_or(open.kind.as_str());
        let metadata =
            json!({"event": "approval_expired", "interrupt_id": open.id, "kind": open.kind.as_str()});
        changes.push(Change::Log(NewEvent::warning(
            format!("Approval expired: {name}"),
            metadata,
        )));
        changes.push(closed(open.id, InterruptStatus::Expired, None, Value::Null));
    }
    if late.iter().any(|open| open.kind == InterruptKind::Plan) {
        return Ok(plan_rejected(changes, Some("Approval expired")));
    }
    Ok(go_on(changes, &left, job_id))
}

/// What a resume does to open questions: its text is their answer, without one they stay unanswered. It cannot approve.
pub(super) fn answered(run: &RunState, text: Option<&String>) -> Result<Vec<Change>, Rejection> {
    let approvals: Vec<InterruptId> = run
        .interrupts
        .iter()
        .filter(|open| open.kind != InterruptKind::Question)
        .map(|open| open.id)
        .collect();
    if !approvals.is_empty() {
        return Err(Rejection::ApprovalOpen(approvals));
    }
    let close = |open: &OpenInterrupt| match text {
        Some(text) => {
            let answer = Some(InterruptDecision::Answer);
            closed(open.id, InterruptStatus::Resolved, answer, json!({"text": text}))
        }
        None => closed(open.id, InterruptStatus::Cancelled, None, Value::Null),
    };
    Ok(run.interrupts.iter().map(close).collect())
}

fn closed(
    id: InterruptId,
    status: InterruptStatus,
    decision: Option<InterruptDecision>,
    response: Value,
) -> Change {
    Change::InterruptClosed {
        id,
        status,
        decision,
        response,
    }
}

fn told(open: &OpenInterrupt, verdict: &InterruptVerdict) -> Change {
    let decision = verdict.decision();
    let word = match decision {
        InterruptDecision::Approve => "Approved",
        InterruptDecision::Edit => "Approved with changes",
        InterruptDecision::Reject => "Rejected",
        InterruptDecision::Answer => "Answered",
    };
    let name = open.tool_name.as_deref().unwrap_or(open.kind.as_str());
    let mut metadata = json!({
        "event": "approval_decided",
        "interrupt_id": open.id,
        "kind": open.kind.as_str(),
        "decision": decision.as_str(),
    });
    if let InterruptVerdict::Reject { reason: Some(reason) } = verdict {
        metadata["reason"] = json!(reason);
    }
    let text = format!("{word} by the user: {name}");
    Change::Log(NewEvent::new(LogType::Info, text, metadata))
}

fn go_on(mut changes: Vec<Change>, left: &[OpenInterrupt], job_id: JobId) -> Decision {
    if left.is_empty() {
        changes.push(Change::Waiting(None));
        changes.push(status(RunStatus::Executing));
        return Decision::of(changes).job(JobIntent::Enqueue(job_id));
    }
    let waiting_for = interrupted(left, &open_in_words(left));
    changes.push(Change::Waiting(Some(waiting_for)));
    Decision::of(changes)
}

fn plan_rejected(mut changes: Vec<Change>, reason: Option<&str>) -> Decision {
    let reason = reason.map(str::trim).filter(|reason| !reason.is_empty());
    let message = reason.map_or_else(
        || "Plan rejected".to_owned(),
        |reason| format!("Plan rejected: {reason}"),
    );
    changes.push(Change::Status {
        to: RunStatus::Cancelled,
        error: Some(RunError::new("plan_rejected", message)),
    });
    Decision::of(changes)
        .job(JobIntent::Remove)
        .lease(LeaseIntent::Drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use crate::decide::decide;
    use crate::decide::testing::run;
    use crate::ids::MessageId;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn open(id: u128, kind: InterruptKind) -> OpenInterrupt {
        OpenInterrupt {
            id: InterruptId(Uuid::from_u128(id)),
            kind,
            tool_name: (kind == InterruptKind::Tool).then(|| "shell".to_owned()),
            expires_at: Some(Timestamp::from_second(100).unwrap()),
        }
    }

    fn waiting(interrupts: Vec<OpenInterrupt>) -> RunState {
        RunState {
            interrupts,
            ..run(RunStatus::WaitingUser)
        }
    }

    fn word(id: InterruptId, verdict: InterruptVerdict, second: i64) -> Command {
        Command::Decide {
            interrupt_id: id,
            verdict,
            now: Timestamp::from_second(second).unwrap(),
            job_id: JobId(Uuid::from_u128(9)),
        }
    }

    fn follow(run: &mut RunState, decision: &Decision) {
        for change in &decision.changes {
            match change {
                Change::Status { to, .. } => run.status = *to,
                Change::InterruptClosed { id, .. } => run.interrupts.retain(|open| open.id != *id),
                _ => {}
            }
        }
    }

    proptest! {
        /// Several interrupts, decided in any order, some of them twice: one job, with the last of them.
        #[test]
        fn whatever_the_order_of_the_decisions_there_is_one_job(
            order in Just((1..=5_u128).collect::<Vec<_>>()).prop_shuffle(),
            words in prop::collection::vec(0..3_u8, 5),
            repeated in 0..5_usize,
        ) {
            let mut run = waiting((1..=5).map(|id| open(id, InterruptKind::Tool)).collect());
            let mut jobs = 0;
            let twice = order.iter().chain(std::iter::once(&order[repeated]));
            for (position, id) in twice.enumerate() {
                let verdict = match words[position % 5] {
                    0 => InterruptVerdict::Approve,
                    1 => InterruptVerdict::Edit(json!({"command": "ls"})),
                    _ => InterruptVerdict::Reject { reason: None },
                };
                let id = InterruptId(Uuid::from_u128(*id));
                match decide(&run, word(id, verdict, 1)) {
                    Ok(decision) => {
                        jobs += usize::from(decision.job != JobIntent::Keep);
                        prop_assert_eq!(decision.job != JobIntent::Keep, run.interrupts.len() == 1);
                        follow(&mut run, &decision);
                    }
                    Err(rejection) => prop_assert_eq!(rejection, Rejection::InterruptClosed(id)),
                }
            }
            prop_assert_eq!(jobs, 1);
            prop_assert_eq!(run.status, RunStatus::Executing);
        }
    }

    #[test]
    fn a_resume_answers_questions_and_approves_nothing() {
        let resume = |text: Option<&str>| Command::Resume {
            user_input: text.map(|text| (MessageId(Uuid::nil()), text.to_owned())),
            job_id: JobId(Uuid::nil()),
        };
        let tool = open(1, InterruptKind::Tool);
        let question = open(2, InterruptKind::Question);
        let both = waiting(vec![tool.clone(), question.clone()]);
        assert_eq!(
            decide(&both, resume(Some("yes"))),
            Err(Rejection::ApprovalOpen(vec![tool.id]))
        );
        let answered = decide(&waiting(vec![question.clone()]), resume(Some("blue"))).unwrap();
        assert!(answered.changes.iter().any(|change| matches!(change,
            Change::InterruptClosed { decision: Some(InterruptDecision::Answer), response, .. } if response["text"] == "blue")));
        let left = decide(&waiting(vec![question]), resume(None)).unwrap();
        assert!(left.changes.iter().any(|change| matches!(
            change,
            Change::InterruptClosed {
                status: InterruptStatus::Cancelled,
                ..
            }
        )));
    }

    #[test]
    fn after_its_time_an_approval_counts_as_rejected() {
        let run = waiting(vec![open(1, InterruptKind::Tool)]);
        let id = run.interrupts[0].id;
        let late = decide(&run, word(id, InterruptVerdict::Approve, 100));
        assert_eq!(late, Err(Rejection::InterruptExpired(id)));
        let expire = |second| Command::ExpireInterrupts {
            now: Timestamp::from_second(second).unwrap(),
            job_id: JobId(Uuid::nil()),
        };
        assert!(decide(&run, expire(99)).is_err(), "not yet");
        let expired = decide(&run, expire(100)).unwrap();
        assert!(matches!(expired.job, JobIntent::Enqueue(_)));
        let plan = waiting(vec![open(1, InterruptKind::Plan)]);
        let ended = decide(&plan, expire(100)).unwrap();
        assert!(ended.changes.iter().any(|change| matches!(change,
            Change::Status { to: RunStatus::Cancelled, error: Some(error) } if error.message == "Plan rejected: Approval expired")));
    }

    #[test]
    fn a_question_is_answered_and_a_call_is_not() {
        let run = waiting(vec![
            open(1, InterruptKind::Tool),
            open(2, InterruptKind::Question),
        ]);
        let answer = || InterruptVerdict::Answer {
            text: "x".to_owned(),
            message_id: MessageId(Uuid::nil()),
        };
        let (tool, question) = (run.interrupts[0].id, run.interrupts[1].id);
        assert_eq!(
            decide(&run, word(tool, answer(), 1)),
            Err(Rejection::WrongDecision(tool))
        );
        let approve = word(question, InterruptVerdict::Approve, 1);
        assert_eq!(decide(&run, approve), Err(Rejection::WrongDecision(question)));
        assert!(decide(&run, word(question, answer(), 1)).is_ok());
    }
}
