//! Stores that go away and come back.

use crate::support::{LONG, Setup, System, message, script, shell};
use serde_json::{Value, json};
use std::time::Duration;
use testkit::eventually;

/// AA-102: readiness follows a store within this time, both ways.
const NOTICED: Duration = Duration::from_secs(10);

/// Status and body of `/ready`.
async fn ready(system: &System) -> (u16, Value) {
    let answer = system
        .client
        .get(format!("{}/ready", system.base))
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn turns(system: &System, code: u16) {
    eventually(NOTICED, || async { ready(system).await.0 == code }).await;
}

async fn worker_turns(system: &System, code: u16) {
    let url = format!("http://127.0.0.1:{}/readyz", system.admin[0]);
    eventually(NOTICED, || async { system.code(&url).await == Some(code) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_redis_away_starts_are_accepted_and_run_when_it_is_back() {
    let mut system = Setup::workers(1).start().await;
    system.redis.stop();
    turns(&system, 503).await;
    worker_turns(&system, 503).await;
    let (_, body) = ready(&system).await;
    assert_eq!(
        (&body["status"], &body["checks"]["redis"]),
        (&json!("not_ready"), &json!("error"))
    );
    assert_eq!(body["checks"]["postgres"], "ok");
    let run = system.create(&script(&[message("one"), message("two")])).await;
    assert_eq!(system.act("start", &run).await["status"], "queued");
    let again = system.act("start", &run).await;
    assert_eq!(again["message"], "Run is already queued");
    system.redis.restart().await;
    turns(&system, 200).await;
    worker_turns(&system, 200).await;
    system
        .wait_status(&run, "completed", Duration::from_secs(30))
        .await;
    assert_eq!(system.steps(&run, "completed").await, 2);
    let token = "SELECT fencing_token FROM agent_runs WHERE id::text = $1";
    assert_eq!(system.count(token, &run).await, 1);
    system.assert_whole(&run).await;
    system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_postgres_away_nothing_is_accepted_and_all_goes_on_when_it_is_back() {
    let mut system = Setup::workers(1).own_postgres().start().await;
    let before = system
        .begin(&script(&[message("one"), shell("sleep 4"), message("two")]))
        .await;
    system.wait_step(&before, 2, "running").await;
    system.postgres.as_mut().unwrap().stop();
    turns(&system, 503).await;
    let answer = system.post(&json!({"action": "create", "prompt": "x"})).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(
        (&problem["code"], &problem["detail"]),
        (&json!("unavailable"), &json!("Service temporarily unavailable"))
    );
    system.postgres.as_mut().unwrap().restart().await;
    turns(&system, 200).await;
    worker_turns(&system, 200).await;
    let after = system.begin(&script(&[message("after")])).await;
    system.wait_status(&after, "completed", LONG).await;
    system.wait_status(&before, "completed", LONG).await;
    system.assert_whole(&before).await;
    assert_eq!(system.steps(&before, "completed").await, 3);
    system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flushall_loses_no_run_and_repeats_none() {
    let system = Setup::workers(1)
        .worker_env("WORKER_CONCURRENCY", "1")
        .start()
        .await;
    let running = system
        .begin(&script(&[message("one"), shell("sleep 5"), message("two")]))
        .await;
    system.wait_step(&running, 2, "running").await;
    let mut queued = Vec::new();
    for number in 0..5 {
        queued.push(
            system
                .begin(&script(&[message(&format!("queued {number}"))]))
                .await,
        );
    }
    assert_eq!(system.length("pending"), 5);
    system.redis.cli(&["FLUSHALL"]);
    for run in queued.iter().chain([&running]) {
        system.wait_status(run, "completed", LONG).await;
        let named = system.assert_whole(run).await;
        let steps = if run == &running { 3 } else { 1 };
        let calls = named
            .iter()
            .filter(|frame| frame.event.as_deref() == Some("tool_call"));
        assert_eq!(calls.count(), steps);
        let token = "SELECT fencing_token FROM agent_runs WHERE id::text = $1";
        assert_eq!(system.count(token, run).await, 1, "executed twice");
    }
    system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_while_redis_is_away() {
    let mut system = Setup::workers(1).start().await;
    let run = system
        .begin(&script(&[message("one"), shell("sleep 4"), message("two")]))
        .await;
    system.wait_step(&run, 2, "running").await;
    let url = system.stream_url(&run);
    let token = system.token.clone();
    let stream = testkit::Sse::connect(&url, Some(&token), None).await;
    let watching = tokio::spawn(stream.collect_until_complete(LONG));
    system.redis.kill();
    // The worker goes on with the run it holds: Postgres still confirms its lease.
    system.wait_status(&run, "completed", LONG).await;
    let frames = tokio::time::timeout(Duration::from_secs(5), watching).await;
    let frames = frames.expect("the end reaches the stream within 3 s").unwrap();
    let ids = crate::support::ids(&frames);
    assert_eq!(ids, (1..=ids.len() as i64).collect::<Vec<_>>());
    system.redis.restart().await;
    system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_outage_of_redis_ends_no_program() {
    /// Longer than what a job loop may stand still.
    const OUTAGE: Duration = Duration::from_secs(25);
    let mut system = Setup::workers(1).start().await;
    system.redis.stop();
    let back = tokio::time::Instant::now() + OUTAGE;
    let run = system.begin(&script(&[message("one")])).await;
    tokio::time::sleep_until(back).await;
    system.redis.restart().await;
    system
        .wait_status(&run, "completed", Duration::from_secs(30))
        .await;
    assert!(system.workers[0].ended().is_none() && system.api.ended().is_none());
    system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_removed_by_hand_come_back_into_the_right_lists() {
    /// AA-68.
    const BACK: Duration = Duration::from_secs(30);
    let setup = Setup::workers(1).worker_env("WORKER_CONCURRENCY", "1");
    let system = setup.worker_env("WORKER_RETRY_BASE_MS", "60000").start().await;
    let failing = json!({"type": "error", "status": 503, "attempts": 1, "retry_after": 60});
    let retrying = system.begin(&script(&[failing, message("later")])).await;
    eventually(BACK, || async { system.length("retry") == 1 }).await;
    let running = system.begin(&script(&[message("one"), shell("sleep 40")])).await;
    system.wait_step(&running, 2, "running").await;
    let queued = system.begin(&script(&[message("one")])).await;
    for list in ["pending", "retry", "processing"] {
        system.redis.cli(&["DEL", &format!("jobs:{list}")]);
    }
    let of = |list: &str| -> Vec<Value> {
        system
            .jobs(list)
            .iter()
            .map(|job| job["run_id"].clone())
            .collect()
    };
    eventually(BACK, || async {
        of("pending") == [json!(queued)] && of("processing") == [json!(running)]
    })
    .await;
    let waiting =
        || async { of("retry") == [json!(retrying)] || system.status(&retrying).await == "completed" };
    eventually(BACK, waiting).await;
    system.wait_status(&running, "completed", LONG).await;
    system.wait_status(&queued, "completed", LONG).await;
    system.wait_status(&retrying, "completed", LONG).await;
    assert_eq!(system.steps(&queued, "completed").await, 1);
    assert_eq!(system.steps(&running, "completed").await, 2);
    system.assert_queue_empties().await;
}
