//! What a run asks a person, over HTTP: shown in full, decided once, by its owner.

use crate::harness::{Api, read, run_of, status};
use domain::change::Change;
use domain::interrupt::{
    InterruptKind, NewInterrupt, answer_schema, approval_schema, ask_for_call, call_hash,
};
use domain::waiting::{WaitKind, waiting};
use domain::{InterruptId, Labels, RunId, RunStatus, StepId};
use serde_json::{Value, json};
use uuid::Uuid;

const U: &str = "u";

fn asked(run: RunId, place: u32, kind: InterruptKind) -> Change {
    let input = json!({"command": "rm \u{202e}x"});
    let tool = kind == InterruptKind::Tool;
    Change::InterruptOpened(Box::new(NewInterrupt {
        id: InterruptId(Uuid::new_v5(&run.0, &place.to_be_bytes())),
        kind,
        turn: 1,
        action: place,
        step_id: tool.then(|| StepId(Uuid::new_v5(&run.0, b"step"))),
        tool_name: tool.then(|| "shell".to_owned()),
        hash: tool.then(|| call_hash("shell", &input, None)),
        message: ask_for_call("shell", &input, "the policy asks before shell"),
        tool_input: tool.then_some(input),
        labels: Labels {
            reads_untrusted: true,
            ..Labels::default()
        },
        reason: "the policy asks before shell".to_owned(),
        response_schema: if kind == InterruptKind::Question {
            answer_schema(&[], None)
        } else {
            approval_schema()
        },
        expires_at: None,
    }))
}

/// A run of [`U`] that asks about these.
async fn asking(api: &Api, kinds: &[InterruptKind]) -> (RunId, Vec<Value>) {
    let run = api.created_and_started(U).await;
    let worker = api.worker().await;
    let epoch = worker.execute(run).await;
    let mut changes: Vec<Change> = (0..)
        .zip(kinds)
        .map(|(place, kind)| asked(run, place, *kind))
        .collect();
    changes.push(Change::Waiting(Some(waiting(WaitKind::Approval, "asked"))));
    changes.push(status(RunStatus::WaitingUser));
    worker.progress(run, epoch, changes).await;
    let open = interrupts(api, run, "").await;
    (run, open)
}

async fn interrupts(api: &Api, run: RunId, query: &str) -> Vec<Value> {
    let request = api.get(U, &format!("/agent/run/{run}/interrupts{query}"));
    let (code, body) = read(request.send().await.expect("answered")).await;
    assert_eq!((code, &body["success"]), (200, &json!(true)), "{body}");
    body["interrupts"].as_array().expect("a list").clone()
}

async fn decide(api: &Api, user: &str, run: RunId, (one, body): (&Value, Value)) -> (u16, Value) {
    let id = one["id"].as_str().expect("an id");
    let request = api.post(user, &format!("/agent/run/{run}/interrupts/{id}"), &body);
    read(request.send().await.expect("answered")).await
}

fn code(answer: &(u16, Value)) -> (u16, String) {
    (answer.0, answer.1["code"].as_str().unwrap_or_default().to_owned())
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_is_shown_as_ag_ui_shows_it_and_decided_once() {
    let api = Api::start().await;
    let (run, open) = asking(&api, &[InterruptKind::Tool]).await;
    let one = &open[0];
    let members: Vec<&String> = one.as_object().expect("an object").keys().take(16).collect();
    let expected = [
        "id",
        "runId",
        "kind",
        "reason",
        "message",
        "toolCallId",
        "toolName",
        "toolInput",
        "hash",
        "labels",
        "responseSchema",
        "status",
        "decision",
        "createdAt",
        "expiresAt",
        "decidedAt",
    ];
    assert_eq!(members, expected);
    assert_eq!(
        (&one["kind"], &one["reason"]),
        (&json!("tool"), &json!("tool_call"))
    );
    assert_eq!(one["toolInput"]["command"], "rm \u{202e}x", "exact");
    assert!(
        one["message"].as_str().expect("text").contains("rm \\u{202e}x"),
        "made visible"
    );
    assert_eq!(one["labels"], json!(["reads-untrusted"]));

    let other = json!({"decision": "approve", "hash": "sha256:00"});
    assert_eq!(
        code(&decide(&api, U, run, (one, other)).await),
        refused(409, "hash_mismatch")
    );
    let approve = json!({"decision": "approve", "hash": one["hash"]});
    let (status, first) = decide(&api, U, run, (one, approve.clone())).await;
    assert_eq!(
        (status, &first["run_status"]),
        (200, &json!("executing")),
        "{first}"
    );
    assert_eq!(first["interrupt"]["decision"], "approve");
    assert_eq!(api.length("jobs:pending"), 1, "one job");
    let (status, again) = decide(&api, U, run, (one, approve)).await;
    assert_eq!((status, &again["interrupt"]), (200, &first["interrupt"]));
    assert_eq!(api.length("jobs:pending"), 1, "still one");
    let reject = decide(&api, U, run, (one, json!({"decision": "reject"}))).await;
    assert_eq!(code(&reject), refused(409, "already_decided"));
    assert!(interrupts(&api, run, "").await.is_empty());
    assert_eq!(interrupts(&api, run, "?status=all").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_and_changes_nothing() {
    let api = Api::start().await;
    let (run, open) = asking(
        &api,
        &[InterruptKind::Tool, InterruptKind::Plan, InterruptKind::Question],
    )
    .await;
    let (tool, plan, question) = (&open[0], &open[1], &open[2]);
    let invalid = refused(422, "validation_error");
    let unfit = refused(400, "invalid_decision");
    let cases = [
        (tool, json!({"decision": "maybe"}), invalid.clone()),
        (tool, json!({}), invalid.clone()),
        (tool, json!({"decision": "edit", "input": [1]}), invalid),
        (tool, json!({"decision": "edit"}), unfit.clone()),
        (tool, json!({"decision": "answer", "text": "x"}), unfit.clone()),
        (question, json!({"decision": "approve"}), unfit.clone()),
        (question, json!({"decision": "answer", "text": " "}), unfit),
        (
            plan,
            json!({"decision": "edit", "input": {"goal": "g"}}),
            refused(400, "invalid_plan"),
        ),
    ];
    for (one, body, expected) in cases {
        assert_eq!(
            code(&decide(&api, U, run, (one, body.clone())).await),
            expected,
            "{body}"
        );
    }
    let foreign = decide(&api, "somebody else", run, (tool, json!({"decision": "approve"}))).await;
    assert_eq!(code(&foreign), refused(404, "run_not_found"));
    let unknown = json!({"id": "00000000-0000-4000-8000-000000000000"});
    let none = decide(&api, U, run, (&unknown, json!({"decision": "approve"}))).await;
    assert_eq!(code(&none), refused(404, "interrupt_not_found"));
    let resume = json!({"action": "resume", "run_id": run, "user_input": "just do it"});
    let resumed = api.execute(U, resume).await;
    assert_eq!(code(&resumed), refused(409, "approval_required"));
    let named = resumed.1["detail"].as_str().expect("text").to_owned();
    assert!(named.contains(tool["id"].as_str().expect("an id")), "{named}");
    assert_eq!(interrupts(&api, run, "").await.len(), 3, "all still open");

    api.act(U, "stop", run).await;
    let late = decide(&api, U, run, (tool, json!({"decision": "approve"}))).await;
    assert_eq!(code(&late), refused(409, "interrupt_cancelled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_not_understood_makes_no_run() {
    let api = Api::start().await;
    let create = |policy: Value| json!({"action": "create", "prompt": "x", "policy": policy});
    let (status, body) = api.execute(U, create(json!({"shell": "sometimes"}))).await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid_policy")));
    assert_eq!(body["detail"], "Invalid policy: shell must be allow, ask or deny");
    let (status, body) = api.execute(U, create(json!("deny"))).await;
    assert_eq!((status, &body["code"]), (400, &json!("invalid_policy")));
    let made = api
        .done(U, create(json!({"shell": "deny", "default": "ask"})))
        .await;
    let run = run_of(&made);
    let shown = read(
        api.get(U, &format!("/agent/run/{run}"))
            .send()
            .await
            .expect("answered"),
    )
    .await
    .1;
    assert_eq!(
        shown["run"]["metadata"]["policy"],
        json!({"shell": "deny", "default": "ask"})
    );
}
