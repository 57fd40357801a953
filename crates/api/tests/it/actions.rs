//! Every action of `POST /agent/execute`, from every status.

use crate::harness::{Api, read, run_of, status};
use domain::RunStatus;
use domain::change::{Change, RunError};
use serde_json::{Value, json};

fn message(answer: &(u16, Value)) -> (u16, String, String) {
    let (code, body) = answer;
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    let text = if *code == 200 {
        text("message")
    } else {
        text("detail")
    };
    let word = body[if *code == 200 { "status" } else { "code" }].as_str();
    (*code, word.unwrap_or_default().to_owned(), text)
}

fn expected(code: u16, word: &str, text: &str) -> (u16, String, String) {
    (code, word.to_owned(), text.to_owned())
}

#[tokio::test]
async fn a_run_is_created_started_once_and_stopped_with_the_documented_answers() {
    let api = Api::start().await;
    let answer = api
        .done(
            "u",
            json!({"action": "create", "prompt": " hi ", "connector_ids": ["a", "a"], "project_id": "p"}),
        )
        .await;
    let run = run_of(&answer);
    assert_eq!(
        answer,
        json!({"run_id": run, "status": "created", "message": "Agent run created", "plan": null})
    );
    let started = api.act("u", "start", run).await;
    assert_eq!(
        message(&started),
        expected(200, "queued", "Agent execution queued for processing")
    );
    let again = api.act("u", "start", run).await;
    assert_eq!(message(&again), expected(200, "queued", "Run is already queued"));
    assert_eq!(api.length("jobs:pending"), 1);
    let stopped = api.act("u", "stop", run).await;
    assert_eq!(
        message(&stopped),
        expected(200, "cancelled", "Agent execution stopped")
    );
    assert_eq!(api.length("jobs:pending"), 0, "a stopped run has no job");
    let late = api.act("u", "cancel", run).await;
    assert_eq!(
        message(&late),
        expected(
            400,
            "invalid_transition",
            "Cannot cancel run in status: cancelled"
        )
    );
    let late = api.act("u", "start", run).await;
    assert_eq!(
        message(&late),
        expected(400, "invalid_transition", "Cannot start run in status: cancelled")
    );
}

#[tokio::test]
async fn auto_start_queues_and_a_start_after_it_adds_no_job() {
    let api = Api::start().await;
    let answer = api
        .done(
            "u",
            json!({"action": "create", "prompt": "x", "auto_start": true, "priority": 5}),
        )
        .await;
    assert_eq!(answer["status"], "queued");
    assert_eq!(answer["message"], "Agent run created and queued for processing");
    api.act("u", "start", run_of(&answer)).await;
    assert_eq!(
        (api.length("jobs:high_priority"), api.length("jobs:pending")),
        (1, 0)
    );
}

#[tokio::test]
async fn simultaneous_starts_lead_to_one_job() {
    let api = Api::start().await;
    let run = api.create("u").await;
    let calls = (0..24).map(|_| api.act("u", "start", run));
    let answers = futures::future::join_all(calls).await;
    assert!(
        answers
            .iter()
            .all(|(code, body)| *code == 200 && body["status"] == "queued"),
        "{answers:?}"
    );
    let queued = "Agent execution queued for processing";
    assert_eq!(
        answers
            .iter()
            .filter(|(_, body)| body["message"] == queued)
            .count(),
        1
    );
    assert_eq!(api.length("jobs:pending"), 1);
}

#[tokio::test]
async fn pause_and_resume_follow_the_table() {
    let api = Api::start().await;
    let worker = api.worker().await;
    let run = api.created_and_started("u").await;
    for action in ["pause", "resume", "retry"] {
        let refused = api.act("u", action, run).await;
        let text = format!("Cannot {action} run in status: queued");
        assert_eq!(message(&refused), expected(400, "invalid_transition", &text));
    }
    let epoch = worker.execute(run).await;
    let already = api.act("u", "start", run).await;
    assert_eq!(
        message(&already),
        expected(200, "executing", "Run is already executing")
    );
    let paused = api.act("u", "pause", run).await;
    assert_eq!(
        message(&paused),
        expected(200, "paused", "Agent execution paused")
    );
    let body = json!({"action": "resume", "run_id": run, "user_input": "go on"});
    let resumed = api.execute("u", body).await;
    assert_eq!(
        message(&resumed),
        expected(200, "executing", "Agent execution resumed")
    );
    let view = json!({"run_id": run, "include_messages": true});
    let (_, view) = read(api.post("u", "/agent/status", &view).send().await.unwrap()).await;
    assert_eq!(view["messages"][1]["content"], "go on");
    assert!(epoch > 0);
}

#[tokio::test]
async fn a_failed_run_is_retried_as_a_new_queued_run() {
    let api = Api::start().await;
    let worker = api.worker().await;
    let run = api.created_and_started("u").await;
    let epoch = worker.execute(run).await;
    let error = Some(RunError::new("action_failed", "Action failed: x"));
    let failed = Change::Status {
        to: RunStatus::Failed,
        error,
    };
    worker.progress(run, epoch, vec![failed]).await;
    let answer = api.done("u", json!({"action": "retry", "run_id": run})).await;
    assert_eq!(answer["status"], "queued");
    assert_eq!(answer["message"], "Agent run created and queued for processing");
    let fresh = run_of(&answer);
    assert_ne!(fresh, run);
    let view = api.done("u", json!({"action": "status", "run_id": fresh})).await;
    assert_eq!(view["retry_of"], json!(run));
    let old = api.done("u", json!({"action": "status", "run_id": run})).await;
    assert_eq!(
        (&old["status"], &old["error_message"]),
        (&json!("failed"), &json!("Action failed: x"))
    );
    assert_eq!(old["message"], "Run is failed");
}

#[tokio::test]
async fn status_shows_progress_and_the_lists_asked_for() {
    let api = Api::start().await;
    let run = api.create("u").await;
    let status = api.done("u", json!({"action": "status", "run_id": run})).await;
    let progress = json!({"percentage": 0.0, "current_phase": 0, "total_phases": 0, "status": "created"});
    assert_eq!((&status["progress"], &status["plan"]), (&progress, &Value::Null));
    let body = json!({"run_id": run, "include_logs": true, "logs_limit": 1});
    let (code, view) = read(api.post("u", "/agent/status", &body).send().await.unwrap()).await;
    assert_eq!(code, 200);
    assert_eq!(view["run"]["id"], json!(run));
    assert!(view["run"].get("fencing_token").is_none());
    assert_eq!(view["steps"], Value::Null);
    assert_eq!(view["logs"].as_array().unwrap().len(), 1);
    assert_eq!(view["logs"][0]["seq"], 2, "newest first");
}

#[tokio::test]
async fn runs_are_listed_newest_first_in_pages_of_the_owner() {
    let api = Api::start().await;
    let mut made = vec![];
    for _ in 0..3 {
        made.push(api.create("u").await);
    }
    api.create("other").await;
    let first = api.done("u", json!({"action": "list", "limit": 2})).await;
    assert_eq!(
        (&first["run_id"], &first["status"], &first["message"]),
        (&Value::Null, &json!("ok"), &json!("2 runs"))
    );
    assert_eq!(first["runs"][0]["id"], json!(made[2]));
    let next = json!({"action": "list", "limit": 2, "cursor": first["next_cursor"]});
    let second = api.done("u", next).await;
    assert_eq!(second["runs"].as_array().unwrap().len(), 1);
    assert_eq!(second["next_cursor"], Value::Null);
    let waiting = api
        .done("u", json!({"action": "list", "status": "waiting_input"}))
        .await;
    assert_eq!(waiting["message"], "0 runs");
}

#[tokio::test]
async fn an_idempotency_key_gives_the_first_answer_again_and_refuses_another_body() {
    let api = Api::start().await;
    let send = async |user: &str, body: Value| {
        let request = api
            .post(user, "/agent/execute", &body)
            .header("Idempotency-Key", "k-1");
        read(request.send().await.unwrap()).await
    };
    let body = json!({"action": "create", "prompt": "once", "auto_start": true});
    let calls = (0..12).map(|_| send("u", body.clone()));
    let answers = futures::future::join_all(calls).await;
    assert!(
        answers
            .iter()
            .all(|answer| *answer == answers[0] && answer.0 == 200),
        "{answers:?}"
    );
    assert_eq!(api.length("jobs:pending"), 1);
    let (code, refused) = send("u", json!({"action": "create", "prompt": "twice"})).await;
    assert_eq!((code, &refused["code"]), (409, &json!("idempotency_conflict")));
    let (code, other) = send("v", json!({"action": "create", "prompt": "twice"})).await;
    assert_eq!(code, 200, "keys are per user: {other}");
}

#[tokio::test]
async fn with_redis_away_answers_are_prompt_and_the_job_comes_once_it_is_back() {
    let mut api = Api::start().await;
    api.redis.kill();
    let run = api.create("u").await;
    let begun = std::time::Instant::now();
    let (code, _) = api.act("u", "start", run).await;
    assert_eq!(code, 200);
    assert!(begun.elapsed().as_millis() < 1500, "{:?}", begun.elapsed());
    api.redis.restart().await;
    testkit::eventually(std::time::Duration::from_secs(30), || async {
        api.length("jobs:pending") == 1
    })
    .await;
    assert_eq!(api.act("u", "stop", run).await.0, 200);
}

#[tokio::test]
async fn a_job_continues_the_callers_trace() {
    let api = Api::start().await;
    let parent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";
    let body = json!({"action": "create", "prompt": "x", "auto_start": true});
    let request = api
        .post("u", "/agent/execute", &body)
        .header("traceparent", parent);
    assert_eq!(request.send().await.unwrap().status(), 200);
    let job: Value = serde_json::from_str(&api.redis.cli(&["LINDEX", "jobs:pending", "0"])).unwrap();
    assert!(
        job["traceparent"].as_str().unwrap().starts_with(&parent[..35]),
        "{job}"
    );
}

#[tokio::test]
async fn waiting_runs_are_resumed_or_stopped() {
    let api = Api::start().await;
    let worker = api.worker().await;
    let run = api.created_and_started("u").await;
    let epoch = worker.execute(run).await;
    worker
        .progress(run, epoch, vec![status(RunStatus::WaitingUser)])
        .await;
    let view = api.done("u", json!({"action": "status", "run_id": run})).await;
    assert_eq!(view["status"], "waiting_user");
    let resumed = api.act("u", "resume", run).await;
    assert_eq!(
        message(&resumed),
        expected(200, "executing", "Agent execution resumed")
    );
}
