//! Tool calls that must not be repeated, and runs that say why they wait.

use crate::support::{LONG, SOON, Setup, System, message, script, sleep_ms};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testkit::{eventually, eventually_some};

/// Idempotency key and fencing token of every call.
type Calls = Arc<Mutex<Vec<(String, i64)>>>;

/// A system outside that notes a call and does not answer the first one.
async fn outside() -> (String, Calls) {
    let calls = Calls::default();
    let router = axum::Router::new()
        .route("/count_at_most_once", post(count))
        .with_state(calls.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, router).into_future());
    (url, calls)
}

async fn count(State(calls): State<Calls>, headers: HeaderMap) -> axum::Json<Value> {
    let text = |name| headers[name].to_str().unwrap().to_owned();
    let number = {
        let mut calls = calls.lock().unwrap();
        calls.push((text("idempotency-key"), text("fencing-token").parse().unwrap()));
        calls.len()
    };
    if number == 1 {
        tokio::time::sleep(Duration::from_hours(1)).await;
    }
    axum::Json(json!({"count": number}))
}

impl System {
    fn effects_url(&self, run: &str) -> String {
        format!("{}/agent/run/{run}/effects", self.base)
    }

    async fn get(&self, url: &str) -> Value {
        let request = self.client.get(url).bearer_auth(&self.token);
        request.send().await.unwrap().json().await.unwrap()
    }

    /// Says what became of a call; status and answer.
    async fn tell(&self, run: &str, step: &str, told: &Value) -> (u16, Value) {
        let url = format!("{}/{step}", self.effects_url(run));
        let request = self.client.post(url).bearer_auth(&self.token).json(told);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn waiting_for(&self, run: &str) -> Value {
        let url = format!("{}/agent/run/{run}", self.base);
        self.get(&url).await["run"]["waiting_for"].clone()
    }

    /// A run whose worker was killed inside the call, with another worker there. Gives run and step.
    async fn lost_in_the_call(&mut self, calls: &Calls) -> (String, String) {
        let once = json!({"type": "tool", "tool_name": "count_at_most_once", "tool_input": {"order": 7}});
        let run = self.begin(&script(&[once, message("after")])).await;
        eventually(LONG, || async { calls.lock().unwrap().len() == 1 }).await;
        self.add_worker().await;
        self.workers[0].kill();
        self.wait_status(&run, "waiting_user", LONG).await;
        let waiting = self.waiting_for(&run).await;
        assert_eq!(waiting["kind"], "effect_unknown");
        assert_eq!(waiting["tool_name"], "count_at_most_once");
        assert_eq!(waiting["tool_input"], json!({"order": 7}));
        assert!(waiting["since"].is_string(), "{waiting}");
        (run, waiting["step_id"].as_str().unwrap().to_owned())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_worker_was_killed_is_asked_about_and_repeated_only_when_its_user_says_so() {
    let (url, calls) = outside().await;
    let setup = Setup::workers(1).worker_env("AGENT_COUNTING_TOOLS_URL", url);
    let mut system = setup.start().await;
    let (run, step) = system.lost_in_the_call(&calls).await;
    assert_eq!(calls.lock().unwrap().len(), 1, "not repeated by itself");
    system.assert_queue_empties().await;
    let ledger = system.get(&system.effects_url(&run)).await;
    assert_eq!(ledger["effects"][0]["state"], "unknown");
    assert_eq!(ledger["effects"][0]["step_id"], json!(step));
    // A resume would hide the question; a wrong word or step changes nothing.
    let refused = system.post(&json!({"action": "resume", "run_id": run})).await;
    assert_eq!(refused.status(), 409);
    let decided = |decision: &str| json!({"decision": decision, "note": "looked it up"});
    assert_eq!(system.tell(&run, &step, &decided("maybe")).await.0, 422);
    let other = "7a5f0000-0000-4000-8000-000000000000";
    assert_eq!(system.tell(&run, other, &decided("done")).await.0, 404);
    let (status, answer) = system.tell(&run, &step, &decided("retry")).await;
    assert_eq!((status, &answer["status"]), (200, &json!("executing")));
    system.wait_status(&run, "completed", LONG).await;
    let made = calls.lock().unwrap().clone();
    assert_eq!(made.len(), 2);
    assert_eq!(made[0].0, made[1].0, "the same key");
    assert!(made[1].1 > made[0].1, "a newer claim: {made:?}");
    assert_eq!(system.waiting_for(&run).await, Value::Null);
    assert_eq!(system.tell(&run, &step, &decided("done")).await.0, 409);
    system.assert_whole(&run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_its_user_calls_done_is_settled_with_the_given_output_and_never_made_again() {
    let (url, calls) = outside().await;
    let setup = Setup::workers(1).worker_env("AGENT_COUNTING_TOOLS_URL", url);
    let mut system = setup.start().await;
    let (run, step) = system.lost_in_the_call(&calls).await;
    let told = json!({"decision": "done", "output": {"id": 7}});
    assert_eq!(system.tell(&run, &step, &told).await.0, 200);
    system.wait_status(&run, "completed", LONG).await;
    assert_eq!(calls.lock().unwrap().len(), 1);
    let output = "SELECT tool_output->'output'->>'id' FROM agent_steps WHERE id::text = $1";
    assert_eq!(system.text(output, &step).await, "7");
    system.assert_whole(&run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_run_that_does_not_move_says_why() {
    let mut system = Setup::workers(0)
        .worker_env("WORKER_CONCURRENCY", "1")
        .worker_env("WORKER_RETRY_BASE_MS", "30000")
        .start()
        .await;
    let created = system.create(&script(&[message("later")])).await;
    assert_eq!(system.waiting_for(&created).await["kind"], "user");
    let long = system.begin(&script(&[sleep_ms(20_000)])).await;
    let queued = system.waiting_for(&long).await;
    assert_eq!(queued["kind"], "queue");
    assert!(
        queued["detail"].as_str().unwrap().contains("no worker"),
        "{queued}"
    );
    system.add_worker().await;
    system.wait_status(&long, "executing", LONG).await;
    assert_eq!(
        system.waiting_for(&long).await,
        Value::Null,
        "a moving run waits for nothing"
    );
    let second = system.begin(&script(&[message("second")])).await;
    let slot = eventually_some(SOON, || async {
        (system.waiting_for(&second).await["kind"] == "worker_slot").then_some(())
    });
    assert!(slot.await.is_some(), "{}", system.waiting_for(&second).await);
    system.act("pause", &long).await;
    system.wait_status(&second, "completed", LONG).await;
    assert_eq!(system.waiting_for(&long).await["kind"], "user");
    let question = json!({"type": "request_input", "message": "which?"});
    let asking = system.begin(&script(&[question])).await;
    system.wait_status(&asking, "waiting_user", LONG).await;
    let user = system.waiting_for(&asking).await;
    assert_eq!(
        (&user["kind"], &user["detail"]),
        (&json!("user"), &json!("which?"))
    );
    let list = system.execute(json!({"action": "list"})).await;
    let runs = list["runs"].as_array().unwrap();
    let of = |id: &str| runs.iter().find(|run| run["id"] == id).unwrap()["waiting_for"]["kind"].clone();
    assert_eq!((of(&created), of(&asking)), (json!("user"), json!("user")));
    assert_eq!(of(&second), Value::Null);
    says_when_it_tries_again(&system).await;
}

/// Waits long enough for its retry to be seen.
async fn says_when_it_tries_again(system: &System) {
    let fails = json!({"type": "error", "status": 503, "attempts": 2});
    let failing = system.begin(&script(&[fails])).await;
    let retry = eventually_some(LONG, || async {
        let why = system.waiting_for(&failing).await;
        (why["kind"] == "retry").then_some(why)
    });
    let retry = retry.await.unwrap();
    let detail = retry["detail"].as_str().unwrap();
    assert!(retry["until"].is_string() && detail.contains("503"), "{retry}");
}
