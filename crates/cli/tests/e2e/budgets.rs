//! Runs that reach their budget, and the text of replies while they come, through the whole system.

use crate::support::{LONG, SOON, Setup, System, message, script};
use serde_json::{Value, json};
use std::time::Duration;
use testkit::{Answer, ModelServer, Sse, eventually};

async fn begun(system: &System, prompt: &str, budget: Value) -> String {
    let body = json!({"action": "create", "prompt": prompt, "budget": budget, "auto_start": true});
    let answer = system.execute(body).await;
    answer["run_id"].as_str().unwrap().to_owned()
}

async fn waits_for(system: &System, run: &str) -> Value {
    system.act("status", run).await["waiting_for"].clone()
}

async fn raise(system: &System, run: &str, caps: &Value) -> Value {
    let url = format!("{}/agent/run/{run}/budget", system.base);
    let sent = system.client.post(url).bearer_auth(&system.token).json(caps);
    sent.send().await.unwrap().json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_survives_every_restart_and_a_flush_and_the_run_goes_on_once_it_is_raised() {
    let mut system = Setup::workers(1).start().await;
    let prompt = script(&[message("one"), message("two"), message("three")]);
    let run = begun(&system, &prompt, json!({"max_steps": 2})).await;
    system.wait_status(&run, "paused", LONG).await;
    let waits = waits_for(&system, &run).await;
    assert_eq!(
        (&waits["kind"], &waits["dimension"]),
        (&json!("budget"), &json!("steps"))
    );
    assert_eq!((&waits["spent"], &waits["cap"]), (&json!(2), &json!(2)));
    system.workers[0].kill();
    system.redis.cli(&["FLUSHALL"]);
    system.restart_api().await;
    system.add_worker().await;
    system.wait_ready(SOON).await;
    assert_eq!(waits_for(&system, &run).await, waits, "nothing was forgotten");
    let resumed = system.act("resume", &run).await;
    assert_eq!(resumed["status"], "executing");
    system.wait_status(&run, "paused", LONG).await;
    assert_eq!(
        waits_for(&system, &run).await["kind"],
        "budget",
        "there is no room yet"
    );
    let raised = raise(&system, &run, &json!({"budget": {"steps": 3}})).await;
    assert_eq!(raised["run_status"], "executing", "{raised}");
    assert_eq!(raised["spent"]["steps"], 2);
    system.wait_status(&run, "completed", LONG).await;
    assert_eq!(system.steps(&run, "completed").await, 3);
    system.assert_whole(&run).await;
    system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_spent_at_the_vendor_pauses_the_run_and_it_goes_on_afterwards() {
    let model = ModelServer::start().await;
    let plan =
        json!({"goal": "g", "total_estimated_credits": 0, "phases": [{"phase_number": 1, "name": "p"}]});
    model.script([Answer::insufficient_quota(), Answer::text(plan.to_string())]);
    model.otherwise(Answer::tool_calls(vec![("task_complete", json!({}))]));
    let system = Setup::workers(1)
        .worker_env("LLM_PRIMARY_PROVIDER", "openai")
        .worker_env("OPENAI_BASE_URL", model.url())
        .worker_env("OPENAI_API_KEY", "a-key-of-the-tests")
        .start()
        .await;
    let run = begun(&system, "do it", json!({})).await;
    system.wait_status(&run, "paused", LONG).await;
    let waits = waits_for(&system, &run).await;
    assert_eq!(waits["kind"], "model_backoff");
    assert!(
        waits["detail"].as_str().unwrap().contains("insufficient_quota"),
        "{waits}"
    );
    system.act("resume", &run).await;
    system.wait_status(&run, "completed", LONG).await;
    let tokens = "SELECT count(*) FROM token_records WHERE run_id::text = $1";
    assert_eq!(system.count(tokens, &run).await, 2, "the refused call used none");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_text_of_a_reply_comes_on_the_named_stream_and_is_not_stored() {
    let model = ModelServer::start().await;
    let plan =
        json!({"goal": "g", "total_estimated_credits": 0, "phases": [{"phase_number": 1, "name": "p"}]});
    let words = "First I look around and then I say what there is to see";
    model.push(Answer::text(plan.to_string()));
    let pace = Duration::from_millis(30);
    model.push(Answer::text_and_calls(words, vec![("task_complete", json!({}))]).paced(pace));
    let system = Setup::workers(1)
        .worker_env("LLM_PRIMARY_PROVIDER", "openai")
        .worker_env("OPENAI_BASE_URL", model.url())
        .worker_env("OPENAI_API_KEY", "a-key-of-the-tests")
        .start()
        .await;
    let run = system.create("do it").await;
    let mut stream = Sse::connect(&system.named_url(&run), Some(&system.token), None).await;
    system.act("start", &run).await;
    let mut said = String::new();
    let mut indexes = vec![];
    while let Some(frame) = stream.next(LONG).await {
        let Ok(data) = serde_json::from_str::<Value>(&frame.data) else {
            continue;
        };
        if data["metadata"]["event"] == "token" && data["metadata"]["turn"] == 1 {
            assert_eq!(data["metadata"]["transient"], true);
            assert_eq!(frame.id, None);
            said.push_str(data["message"].as_str().unwrap());
            indexes.push(data["metadata"]["index"].as_i64().unwrap());
        }
        if frame.event.as_deref() == Some("complete") {
            break;
        }
    }
    // The last words may come after the end of the run, when nobody listens any more.
    assert!(words.starts_with(&said) && said.len() > words.len() / 2, "{said}");
    assert!(indexes.len() > 1 && indexes.is_sorted(), "{indexes:?}");
    eventually(SOON, || async { system.status(&run).await == "completed" }).await;
    let stored =
        "SELECT count(*) FROM agent_task_logs WHERE run_id::text = $1 AND metadata ->> 'event' = 'token'";
    assert_eq!(system.count(stored, &run).await, 0);
}
