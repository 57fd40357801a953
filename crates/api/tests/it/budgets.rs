//! The budget of a run through the public surface.

use crate::errors::{expected, problem};
use crate::harness::{Api, read, run_of, status};
use domain::budget::{Budget, Reached, Spend};
use domain::{Change, RunId, RunStatus};
use serde_json::{Value, json};

async fn created(api: &Api, budget: Value) -> RunId {
    let body = json!({"action": "create", "prompt": "p", "auto_start": true, "budget": budget});
    run_of(&api.done("u", body).await)
}

async fn shown(api: &Api, run: RunId) -> Value {
    let answer = api.get("u", &format!("/agent/run/{run}/budget")).send().await;
    let (status, body) = read(answer.unwrap()).await;
    assert_eq!(status, 200, "{body}");
    body
}

async fn set(api: &Api, run: RunId, body: Value) -> (u16, Value) {
    let sent = api.post("u", &format!("/agent/run/{run}/budget"), &body).send();
    read(sent.await.unwrap()).await
}

/// What a worker commits when a budget leaves no room.
async fn pauses(api: &Api, run: RunId, reached: Reached) {
    let worker = api.worker().await;
    let epoch = worker.execute(run).await;
    let changes = vec![
        Change::Log(reached.event()),
        Change::Waiting(Some(reached.waiting_for())),
        status(RunStatus::Paused),
    ];
    worker.progress(run, epoch, changes).await;
}

fn reached() -> Reached {
    let budget = Budget::from_value(&json!({"tokens": 100})).unwrap();
    let tokens = |amount| Spend::default().with(domain::budget::Dimension::Tokens, amount);
    budget.reached(tokens(90), tokens(50)).unwrap()
}

#[tokio::test]
async fn a_run_that_waits_for_its_budget_says_so_and_goes_on_once_it_is_raised() {
    let api = Api::start().await;
    let run = created(&api, json!({"max_tokens": 100, "steps": 7})).await;
    pauses(&api, run, reached()).await;
    let status = api.done("u", json!({"action": "status", "run_id": run})).await;
    assert_eq!(status["status"], "paused");
    let waits = &status["waiting_for"];
    assert_eq!(
        (&waits["kind"], &waits["dimension"]),
        (&json!("budget"), &json!("tokens"))
    );
    assert_eq!((&waits["spent"], &waits["cap"]), (&json!(90), &json!(100)));
    assert!(waits["since"].is_string());

    let (code, answer) = set(&api, run, json!({"budget": {"tokens": 139}})).await;
    assert_eq!(
        (code, &answer["run_status"]),
        (200, &json!("paused")),
        "not enough"
    );
    let (code, answer) = set(&api, run, json!({"max_tokens": 140, "run_id": run})).await;
    assert_eq!((code, &answer["run_status"]), (200, &json!("executing")));
    assert_eq!(answer["success"], true);
    assert_eq!(answer["budget"]["tokens"], 140);
    assert_eq!(answer["budget"]["steps"], 7, "what is not named stays");
    assert_eq!(shown(&api, run).await["budget"], answer["budget"]);
    assert!(api.length("jobs:pending") > 0, "it is in the queue again");
    let (_, answer) = set(&api, run, json!({"budget": {"steps": null}})).await;
    assert_eq!(answer["budget"]["steps"], Value::Null);
}

#[tokio::test]
async fn what_is_no_budget_is_refused_with_what_to_send() {
    let api = Api::start().await;
    let run = created(&api, json!({})).await;
    let create = json!({"action": "create", "prompt": "p", "budget": {"max_tokens": "many"}});
    for (path, body, told) in [
        (
            "/agent/execute".to_owned(),
            create,
            "max_tokens must be a whole number, 0 or more, or null for no cap",
        ),
        (
            format!("/agent/run/{run}/budget"),
            json!({"budget": {"dollars": 1}}),
            "unknown member dollars; known are tokens, cost_usd, steps, wall_seconds, sandbox_seconds",
        ),
        (
            format!("/agent/run/{run}/budget"),
            json!({}),
            "send an object with any of tokens, cost_usd, steps, wall_seconds, sandbox_seconds; \
             a number is a cap, null takes it away",
        ),
    ] {
        let answer = api.post("u", &path, &body).send().await.unwrap();
        let detail = format!("Invalid budget: {told}");
        assert_eq!(problem(answer).await, expected(400, "invalid_budget", &detail));
    }
    api.act("u", "stop", run).await;
    let (code, answer) = set(&api, run, json!({"steps": 1})).await;
    assert_eq!(
        (code, &answer["detail"]),
        (
            400,
            &json!("Cannot change the budget of run in status: cancelled")
        )
    );
}

#[tokio::test]
async fn new_runs_begin_with_the_default_budget_as_far_as_nothing_else_is_asked() {
    let api = Api::start_with(&[("AGENT_DEFAULT_BUDGET", r#"{"tokens":1000,"steps":5}"#)]).await;
    let run = created(&api, json!({"steps": 9, "cost_usd": 0.5})).await;
    let budget = shown(&api, run).await["budget"].clone();
    assert_eq!((&budget["tokens"], &budget["steps"]), (&json!(1000), &json!(9)));
    assert_eq!(budget["cost_usd"], 0.5);
}
