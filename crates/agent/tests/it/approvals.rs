//! Calls that a person decides about: asked before, bound to the exact call, decided once, by nobody else.

use super::gated::{Gated, World};
use super::*;
use domain::interrupt::{InterruptDecision, InterruptKind, InterruptStatus};

fn call(tool: &str, input: &Value) -> Value {
    json!({"type": "tool", "tool_name": tool, "tool_input": input})
}

fn done() -> Value {
    json!({"type": "task_complete"})
}

fn issue() -> Value {
    call(
        "connector",
        &json!({"connector_type": "github", "operation": "create_issue", "title": "x"}),
    )
}

/// A run that asks before it opens an issue.
async fn asking() -> (Gated, ListModel) {
    let mut run = Gated::new(World::default(), &json!({"connector.create_issue": "ask"}));
    let model = ListModel::new(&plan(1), &[issue(), done()]);
    assert_eq!(run.drive(&model).await, Outcome::Waiting);
    assert_eq!((run.open(), run.calls().len()), (1, 0), "asked, not called");
    assert_eq!(run.run.status, RunStatus::WaitingUser);
    (run, model)
}

#[tokio::test]
async fn an_approved_call_is_made_as_it_was_shown_and_nothing_before() {
    let (mut run, model) = asking().await;
    let waiting = run.waiting_for();
    assert_eq!(waiting["kind"], "approval");
    assert_eq!(waiting["interrupt_ids"], json!([run.opened[0].id]));
    assert!(run.run.steps.is_empty(), "no step has begun");
    let shown = run.opened[0].tool_input.clone().unwrap();
    run.decide(InterruptDecision::Approve, &json!({}));
    assert_eq!(run.drive(&model).await, Outcome::Finished(RunStatus::Completed));
    assert_eq!(run.calls(), [("connector".to_owned(), shown)]);
    assert_eq!(
        model.asked.lock().unwrap().len(),
        3,
        "the stored turn is not asked for again"
    );
}

#[tokio::test]
async fn asking_again_after_a_lost_worker_is_the_same_interrupt() {
    let (mut run, model) = asking().await;
    let first = run.opened[0].clone();
    run.run.status = RunStatus::Executing;
    assert_eq!(run.drive(&model).await, Outcome::Waiting);
    assert_eq!(run.opened[1].id, first.id);
    assert_eq!(run.opened[1].hash, first.hash);
    assert!(run.calls().is_empty());
}

#[tokio::test]
async fn an_approval_of_another_input_is_none() {
    let (mut run, model) = asking().await;
    run.decide(InterruptDecision::Approve, &json!({}));
    let stored = &mut run.run.turns[0].actions[0];
    stored.tool_input.as_mut().unwrap()["title"] = json!("changed after the approval");
    assert_eq!(run.drive(&model).await, Outcome::Finished(RunStatus::Completed));
    assert!(run.calls().is_empty(), "refused");
    assert!(
        run.errors()[0].starts_with("Approval does not fit the call: "),
        "{:?}",
        run.errors()
    );
}

#[tokio::test]
async fn an_edited_call_is_made_with_the_users_input_and_the_model_is_told() {
    let (mut run, model) = asking().await;
    let edited = json!({"connector_type": "github", "operation": "create_issue", "title": "mine"});
    run.decide(InterruptDecision::Edit, &json!({"input": edited}));
    assert_eq!(run.drive(&model).await, Outcome::Finished(RunStatus::Completed));
    assert_eq!(run.calls(), [("connector".to_owned(), edited.clone())]);
    assert_eq!(run.last_output()["edited_by_user"]["tool_input"], edited);
    let started = run.changes.iter().find_map(|change| match change {
        Change::StepStarted(step) => Some(step.tool_input.clone()),
        _ => None,
    });
    assert_eq!(started, Some(edited), "the step holds what was called");
}

#[tokio::test]
async fn an_edit_cannot_reach_what_the_policy_denies() {
    let policy = json!({"connector.create_issue": "ask", "connector.delete_repo": "deny"});
    let mut run = Gated::new(World::default(), &policy);
    let model = ListModel::new(&plan(1), &[issue(), done()]);
    run.drive(&model).await;
    run.decide(
        InterruptDecision::Edit,
        &json!({"input": {"operation": "delete_repo"}}),
    );
    assert_eq!(run.drive(&model).await, Outcome::Finished(RunStatus::Completed));
    assert!(run.calls().is_empty());
    assert_eq!(
        run.errors(),
        ["Not allowed by policy: connector.delete_repo is denied"]
    );
}

#[tokio::test]
async fn a_rejected_an_expired_and_a_dropped_call_are_told_to_the_model_and_cost_nothing() {
    let cases = [
        (
            InterruptStatus::Resolved,
            Some(InterruptDecision::Reject),
            "Rejected by the user: not now",
        ),
        (InterruptStatus::Expired, None, "Approval expired"),
        (InterruptStatus::Cancelled, None, "Nobody decided about this call"),
    ];
    for (status, decision, error) in cases {
        let (mut run, model) = asking().await;
        run.decide(InterruptDecision::Reject, &json!({"reason": "not now"}));
        run.gate().interrupts[0].status = status;
        run.gate().interrupts[0].decision = decision;
        assert_eq!(run.drive(&model).await, Outcome::Finished(RunStatus::Completed));
        assert_eq!(run.errors(), [error]);
        assert!(run.calls().is_empty());
        let result = run.run.steps[0].result.as_ref().unwrap();
        assert!(result.credits_used.abs() < f64::EPSILON);
    }
}

#[tokio::test]
async fn a_denied_call_is_a_failed_step_and_the_run_goes_on() {
    let mut run = Gated::new(World::default(), &json!({"deny": ["connector"]}));
    let model = ListModel::new(&plan(1), &[issue(), write("a.txt"), done()]);
    assert_eq!(run.drive(&model).await, Outcome::Finished(RunStatus::Completed));
    assert_eq!(
        run.errors(),
        ["Not allowed by policy: connector.create_issue is denied"]
    );
    assert!(run.calls().is_empty() && run.opened.is_empty());
    assert_eq!(run.run.steps.len(), 2);
}

#[tokio::test]
async fn several_calls_of_one_turn_are_asked_for_together_and_run_in_order() {
    let mut run = Gated::new(World::default(), &json!({"ask": ["connector.*"]}));
    let second = call("connector", &json!({"operation": "comment_issue", "n": 2}));
    let turn = json!({"actions": [issue(), write("between.txt"), second]});
    let model = ListModel::new(&plan(1), &[turn, done()]);
    assert_eq!(run.drive(&model).await, Outcome::Waiting);
    assert_eq!(
        (run.open(), run.opened[1].action),
        (2, 2),
        "both, without the one that needs no word"
    );
    assert_eq!(run.waiting_for()["interrupt_ids"].as_array().unwrap().len(), 2);
    run.decide(InterruptDecision::Approve, &json!({}));
    assert_eq!(run.drive(&model).await, Outcome::Finished(RunStatus::Completed));
    let operations: Vec<String> = run
        .calls()
        .iter()
        .map(|(_, input)| input["operation"].to_string())
        .collect();
    assert_eq!(operations, ["\"create_issue\"", "\"comment_issue\""]);
}

#[tokio::test]
async fn a_step_that_had_begun_before_its_worker_was_lost_goes_on_with_the_edited_input() {
    let (mut run, model) = asking().await;
    let edited = json!({"operation": "create_issue", "title": "mine"});
    run.decide(InterruptDecision::Edit, &json!({"input": edited}));
    run.run.steps.push(StoredStep {
        id: step_id(run.run.run_id, 1, 0),
        turn: 1,
        action: 0,
        status: StepStatus::Running,
        result: None,
        started_here: false,
    });
    assert_eq!(run.drive(&model).await, Outcome::Finished(RunStatus::Completed));
    assert_eq!(run.calls(), [("connector".to_owned(), edited)]);
}

#[tokio::test]
async fn a_run_of_plan_only_waits_for_a_person_before_anything_is_done() {
    let mut run = Gated::new(World::default(), &json!({}));
    run.gate().plan_only = true;
    let model = ListModel::new(&plan(2), &[done()]);
    assert_eq!(run.drive(&model).await, Outcome::Waiting);
    assert_eq!(run.kinds(), [InterruptKind::Plan]);
    assert_eq!(run.waiting_for()["kind"], "approval");
    assert_eq!(run.run.plan.as_ref().unwrap().total_phases(), 2);
    assert_eq!(run.opened[0].tool_input.as_ref().unwrap()["goal"], "g");
    assert_eq!(*model.asked.lock().unwrap(), [Purpose::Plan { repairs: 0 }]);
    run.decide(InterruptDecision::Approve, &json!({}));
    assert_eq!(run.drive(&model).await, Outcome::Finished(RunStatus::Completed));
    assert_eq!(run.opened.len(), 1, "asked once");
}

#[tokio::test]
async fn a_plan_that_a_person_has_seen_is_not_replaced_without_asking() {
    let other = call(
        "replan",
        &json!({"reason": "better", "phases": [{"name": "another"}]}),
    );
    for (policy, asked) in [(json!({}), 2), (json!({"replan": "allow"}), 1)] {
        let mut run = Gated::new(World::default(), &policy);
        run.gate().plan_only = true;
        let model = ListModel::new(&plan(2), &[other.clone(), done()]);
        assert_eq!(run.drive(&model).await, Outcome::Waiting);
        run.decide(InterruptDecision::Approve, &json!({}));
        if asked == 2 {
            assert_eq!(run.drive(&model).await, Outcome::Waiting);
            assert_eq!(run.opened[1].reason, "the run was created with plan_only");
            assert_eq!(run.run.plan.as_ref().unwrap().phases[0].name, "p");
            run.decide(InterruptDecision::Approve, &json!({}));
        }
        assert_eq!(run.drive(&model).await, Outcome::Finished(RunStatus::Completed));
        assert_eq!(run.opened.len(), asked, "{policy}");
        let revised = |change: &&Change| matches!(change, Change::PlanRevised { plan, .. } if plan.phases[0].name == "another");
        assert_eq!(run.changes.iter().filter(revised).count(), 1);
    }
}

#[tokio::test]
async fn a_question_of_a_tool_is_answered_by_its_result() {
    let ask = call(
        "ask_user",
        &json!({"question": "Which colour?", "options": ["red", "blue"]}),
    );
    let mut run = Gated::new(World::default(), &json!({}));
    let model = ListModel::new(&plan(1), &[ask, done()]);
    assert_eq!(run.drive(&model).await, Outcome::Waiting);
    assert_eq!(run.kinds(), [InterruptKind::Question]);
    assert_eq!(run.waiting_for()["kind"], "user");
    assert_eq!(
        run.opened[0].response_schema["properties"]["text"]["enum"],
        json!(["red", "blue"])
    );
    assert!(run.changes.iter().any(|change| matches!(change, Change::InputRequested { question, .. } if question.contains("Which colour?"))));
    run.decide(InterruptDecision::Answer, &json!({"text": "blue"}));
    assert_eq!(run.drive(&model).await, Outcome::Finished(RunStatus::Completed));
    assert_eq!(run.last_output(), json!({"answer": "blue"}));
}

#[tokio::test]
async fn a_question_without_words_is_refused_and_not_asked() {
    let mut run = Gated::new(World::default(), &json!({}));
    let model = ListModel::new(&plan(1), &[call("ask_user", &json!({"question": " "})), done()]);
    assert_eq!(run.drive(&model).await, Outcome::Finished(RunStatus::Completed));
    assert_eq!(run.errors(), ["Invalid input: question cannot be empty"]);
    assert!(run.opened.is_empty());
}

#[tokio::test]
async fn request_input_is_an_interrupt_too() {
    let mut run = Gated::new(World::default(), &json!({}));
    let model = ListModel::new(
        &plan(1),
        &[json!({"type": "request_input", "message": "which?"}), done()],
    );
    assert_eq!(run.drive(&model).await, Outcome::Waiting);
    assert_eq!(run.kinds(), [InterruptKind::Question]);
    let waiting = run.waiting_for();
    assert_eq!(
        (&waiting["kind"], &waiting["detail"]),
        (&json!("user"), &json!("which?"))
    );
    run.decide(InterruptDecision::Answer, &json!({"text": "that one"}));
    run.hear("that one");
    assert_eq!(run.drive(&model).await, Outcome::Finished(RunStatus::Completed));
}

#[tokio::test]
async fn taint_outlives_what_the_model_sees() {
    let read = call("connector", &json!({"operation": "get_issue"}));
    let mut run = Gated::new(World::default(), &json!({}));
    let model = ListModel::new(&plan(1), &[read, issue(), done()]);
    assert_eq!(run.drive(&model).await, Outcome::Waiting);
    assert_eq!(run.calls().len(), 1);
    assert!(
        run.opened[0].reason.contains("untrusted"),
        "{}",
        run.opened[0].reason
    );
    // A summary of the old part, and another worker: the steps say it all the same.
    for step in &mut run.run.steps {
        step.result.as_mut().unwrap().output = json!({});
    }
    run.gate().interrupts.clear();
    run.run.status = RunStatus::Executing;
    assert_eq!(run.drive(&model).await, Outcome::Waiting);
    assert_eq!(run.calls().len(), 1);
}

#[tokio::test]
async fn a_person_sees_what_cannot_be_seen() {
    let hidden = call("shell", &json!({"command": "echo a\u{202e}b\u{200b}"}));
    let mut run = Gated::new(World::default(), &json!({"shell": "ask"}));
    let model = ListModel::new(&plan(1), &[hidden, done()]);
    assert_eq!(run.drive(&model).await, Outcome::Waiting);
    let asked = &run.opened[0];
    assert!(
        asked.message.contains("a\\u{202e}b\\u{200b}"),
        "{}",
        asked.message
    );
    assert_eq!(
        asked.tool_input.as_ref().unwrap()["command"],
        "echo a\u{202e}b\u{200b}"
    );
}
