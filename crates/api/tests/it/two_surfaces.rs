//! One run on two surfaces: what either makes is seen on the other, in one sequence.

use crate::harness::{Api, SECRET, Worker, read, status};
use domain::change::{Change, NewMessage, NewStep};
use domain::ids::{MessageId, StepId};
use domain::run::StepStatus;
use domain::{Effect, Ids as _, RunId, RunStatus, SystemIds, ToolResult};
use serde_json::{Value, json};
use std::time::Duration;
use testkit::jwt;

fn internal() -> String {
    jwt(SECRET, "service", json!({"scope": "internal"}))
}

async fn shown(api: &Api, run: RunId) -> Value {
    let request = api.client.get(format!("{}/internal/v1/runs/{run}", api.internal));
    let (status, body) = read(request.bearer_auth(internal()).send().await.unwrap()).await;
    assert_eq!(status, 200, "{body}");
    body["run"].clone()
}

async fn append(api: &Api, run: RunId, event: &Value) -> (u16, Value) {
    let request = api
        .client
        .post(format!("{}/internal/v1/runs/{run}/events", api.internal));
    read(request.bearer_auth(internal()).json(event).send().await.unwrap()).await
}

async fn made_here(api: &Api, metadata: Value) -> RunId {
    let request = api
        .client
        .post(format!("{}/internal/v1/runs", api.internal))
        .bearer_auth(internal());
    let sent = request.json(&json!({"metadata": metadata})).send().await.unwrap();
    let (status, body) = read(sent).await;
    assert_eq!(status, 201, "{body}");
    body["run"]["id"].as_str().unwrap().parse().unwrap()
}

/// Event types in their order, each seq being its place.
fn types(run: &Value) -> Vec<&str> {
    let events = run["events"].as_array().unwrap();
    for (seq, event) in (1..).zip(events) {
        assert_eq!(event["seq"], seq, "{run}");
    }
    events
        .iter()
        .map(|event| event["event_type"].as_str().unwrap())
        .collect()
}

fn payload<'a>(run: &'a Value, event_type: &str) -> &'a Value {
    let events = run["events"].as_array().unwrap();
    let found = events.iter().rfind(|event| event["event_type"] == event_type);
    &found.unwrap_or_else(|| panic!("{event_type} in {run}"))["payload"]
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

async fn one_tool_call(worker: &Worker, run: RunId, epoch: i64) {
    let id = StepId(SystemIds.uuid());
    let step = NewStep {
        id,
        phase_number: 1,
        turn: 1,
        action: 0,
        tool_name: "shell".to_owned(),
        tool_input: json!({"command": "ls"}),
        effect: Effect::Idempotent,
    };
    worker.progress(run, epoch, vec![Change::StepStarted(step)]).await;
    let settled = Change::StepSettled {
        step_id: id,
        status: StepStatus::Completed,
        result: ToolResult::ok(json!({"stdout": "a"}), 0.0),
        duration_ms: 7,
    };
    let message = Change::MessageAdded(NewMessage {
        id: MessageId(SystemIds.uuid()),
        role: "assistant",
        content: "done".to_owned(),
        step_id: None,
        silent: false,
    });
    worker.progress(run, epoch, vec![settled, message]).await;
}

#[tokio::test]
async fn a_platform_run_is_seen_event_for_event_in_the_words_of_the_internal_surface() {
    let api = Api::start().await;
    let run = api.create("u").await;
    assert_eq!(shown(&api, run).await["status"], "created");
    assert_eq!(
        payload(&shown(&api, run).await, "run.created"),
        &json!({"source": "agent-api"})
    );
    api.act("u", "start", run).await;
    let queued = shown(&api, run).await;
    assert_eq!(
        (&queued["status"], payload(&queued, "run.started")),
        (&json!("running"), &json!({"source": "agent-api"}))
    );
    let worker = api.worker().await;
    let epoch = worker.execute(run).await;
    one_tool_call(&worker, run, epoch).await;
    worker.log(run, epoch, "a line").await;
    worker.complete(run, epoch).await;
    let ended = shown(&api, run).await;
    assert_eq!(ended["status"], "succeeded");
    assert_eq!(
        payload(&ended, "run.finished"),
        &json!({"status": "succeeded", "reason_class": "completed"})
    );
    assert_eq!(
        keys(payload(&ended, "tool.call")),
        ["step_id", "tool_name", "tool_input", "status"]
    );
    assert_eq!(
        keys(payload(&ended, "tool.result")),
        [
            "step_id",
            "tool_name",
            "success",
            "output",
            "error",
            "duration_ms"
        ]
    );
    assert_eq!(payload(&ended, "run.delta")["delta"], "done");
    assert_eq!(keys(payload(&ended, "run.delta")), ["delta", "message_id"]);
    assert_eq!(keys(payload(&ended, "run.status_changed")), ["from", "to"]);
    assert_eq!(
        keys(payload(&ended, "run.log")),
        ["log_type", "message", "metadata"]
    );
    let public = api
        .get("u", &format!("/agent/run/{run}/events"))
        .send()
        .await
        .unwrap();
    let (_, public) = read(public).await;
    let public = public["events"].as_array().unwrap_or_else(|| panic!("{public}"));
    let seqs: Vec<_> = public
        .iter()
        .map(|event| event["seq"].as_i64().unwrap())
        .collect();
    let expected: Vec<i64> = (1..=types(&ended).len() as i64).collect();
    assert_eq!(seqs, expected, "a stored public event is one event here");
}

#[tokio::test]
async fn a_platform_run_takes_a_cancel_request_and_neutral_events_and_nothing_that_drives_it() {
    let api = Api::start().await;
    let run = api.created_and_started("u").await;
    let worker = api.worker().await;
    let epoch = worker.execute(run).await;
    let driven = json!({"error": "conflict", "message": "run is driven by the platform"});
    let finish = json!({"event_type": "run.finished", "payload": {"status": "succeeded"}});
    for event in [json!({"event_type": "run.started"}), finish] {
        assert_eq!(append(&api, run, &event).await, (409, driven.clone()));
    }
    assert_eq!(
        append(&api, run, &json!({"event_type": "note", "payload": 7}))
            .await
            .0,
        200
    );
    let (status_code, _) = append(&api, run, &json!({"event_type": "run.cancel_requested"})).await;
    assert_eq!(status_code, 200);
    let ended = shown(&api, run).await;
    assert_eq!(ended["status"], "canceled");
    let last = types(&ended);
    assert_eq!(last.last(), Some(&"run.finished"));
    assert_eq!(
        last.iter()
            .filter(|name| **name == "run.cancel_requested")
            .count(),
        1
    );
    assert_eq!(
        payload(&ended, "run.finished"),
        &json!({"status": "canceled", "reason_class": "cancel_requested"})
    );
    let late = worker
        .orchestration
        .progress(run, epoch, vec![status(RunStatus::Completed)])
        .await;
    assert!(late.is_err(), "the worker's late write is refused");
    assert_eq!(types(&shown(&api, run).await).len(), last.len());
    let (_, seen) = api.act("u", "status", run).await;
    assert_eq!(seen["status"], "cancelled");
    assert_eq!(
        append(&api, run, &json!({"event_type": "note"})).await.1["message"],
        "run is terminal: canceled"
    );
}

#[tokio::test]
async fn a_run_made_on_the_internal_surface_belongs_to_its_owner_and_is_never_queued() {
    let api = Api::start().await;
    let run = made_here(&api, json!({"owner_user_id": 7})).await;
    let (code, seen) = api.act("7", "status", run).await;
    assert_eq!((code, &seen["status"]), (200, &json!("executing")));
    assert_eq!(api.act("8", "status", run).await.0, 404);
    for action in ["pause", "resume", "retry"] {
        let (code, refused) = api.act("7", action, run).await;
        let expected = format!("Cannot {action} run in status: executing");
        assert_eq!((code, &refused["detail"]), (400, &json!(expected)), "{refused}");
    }
    assert_eq!(
        append(&api, run, &json!({"event_type": "step.one", "payload": {"a": 1}}))
            .await
            .0,
        200
    );
    let events = api
        .get("7", &format!("/agent/run/{run}/events"))
        .send()
        .await
        .unwrap();
    let (_, events) = read(events).await;
    let line = &events["events"][1]["data"];
    assert_eq!(
        (&line["log_type"], &line["metadata"]["event_type"]),
        (&json!("info"), &json!("step.one")),
        "{events}"
    );
    api.act("7", "stop", run).await;
    let asked = shown(&api, run).await;
    assert_eq!(
        (&asked["status"], types(&asked).last()),
        (&json!("canceling"), Some(&"run.cancel_requested"))
    );
    let finish = json!({"event_type": "run.finished", "payload": {"status": "canceled"}});
    assert_eq!(append(&api, run, &finish).await.0, 200);
    assert_eq!(api.act("7", "status", run).await.1["status"], "cancelled");
    let (_, events) = read(
        api.get("7", &format!("/agent/run/{run}/events"))
            .send()
            .await
            .unwrap(),
    )
    .await;
    assert_eq!(
        events["events"].as_array().unwrap().last().unwrap()["event"],
        "complete"
    );
    for list in [
        "jobs:pending",
        "jobs:high_priority",
        "jobs:processing",
        "jobs:retry",
    ] {
        assert_eq!(api.length(list), 0, "{list}");
    }
}

#[tokio::test]
async fn the_words_of_both_surfaces_fit_and_a_run_without_owner_is_for_internal_callers() {
    let api = Api::start().await;
    for (finish, here, public) in [
        ("succeeded", "succeeded", "completed"),
        ("failed", "failed", "failed"),
        ("cancelled", "canceled", "cancelled"),
    ] {
        let run = made_here(&api, json!({"owner_user_id": "u"})).await;
        append(
            &api,
            run,
            &json!({"event_type": "run.finished", "payload": {"status": finish}}),
        )
        .await;
        assert_eq!(shown(&api, run).await["status"], here);
        assert_eq!(api.act("u", "status", run).await.1["status"], public);
    }
    let orphan = made_here(&api, Value::Null).await;
    assert_eq!(api.act("service", "status", orphan).await.0, 404);
    let url = format!("{}/agent/run/{orphan}", api.base);
    let seen = api
        .client
        .get(url)
        .bearer_auth(internal())
        .timeout(Duration::from_secs(10))
        .send()
        .await;
    assert_eq!(read(seen.unwrap()).await.0, 200);
    let listed = api.done("u", json!({"action": "list"})).await;
    assert_eq!(listed["runs"].as_array().map(Vec::len), Some(3), "{listed}");
}
