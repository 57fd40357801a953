//! Retries, dead letters, and what people push by hand.

use crate::support::{LONG, SOON, Setup, System, message, script};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use testkit::{eventually, eventually_some};

async fn buried(system: &System, number: usize) -> Vec<Value> {
    let there = eventually_some(SOON, || async {
        (system.length("failed") >= number).then_some(())
    });
    assert!(there.await.is_some(), "{:?}", system.lengths());
    system.jobs("failed")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transient_failure_waits_in_the_retry_list_and_then_completes() {
    let system = Setup::workers(1)
        .worker_env("WORKER_RETRY_BASE_MS", "4000")
        .start()
        .await;
    let failing = json!({"type": "error", "status": 503, "attempts": 2});
    let run = system
        .begin(&script(&[message("one"), failing, message("two")]))
        .await;
    let seen = eventually_some(LONG, || async { system.jobs("retry").into_iter().next() }).await;
    let waiting = seen.expect("the job was never seen in jobs:retry");
    assert_eq!(waiting["run_id"], run.as_str());
    assert!(
        waiting["last_error"].is_string() && waiting["retry_at"].is_string(),
        "{waiting}"
    );
    let retry_count = waiting["retry_count"].as_i64().unwrap();
    assert_eq!(waiting["attempt"], retry_count + 1);
    system.wait_status(&run, "completed", LONG).await;
    assert_eq!(system.steps(&run, "completed").await, 2);
    let row = &system
        .sql("SELECT retry_count FROM agent_runs WHERE id::text = $1", &run)
        .await[0];
    assert!(row.get::<_, i32>(0) <= 2);
    system.assert_whole(&run).await;
    system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_stays_uses_four_attempts_and_is_buried_and_can_be_retried_as_a_new_run() {
    let system = Setup::workers(1)
        .worker_env("WORKER_RETRY_BASE_MS", "100")
        .start()
        .await;
    let run = system
        .begin(&script(&[
            json!({"type": "error", "status": 503, "attempts": 99}),
            message("x"),
        ]))
        .await;
    system.wait_status(&run, "failed", LONG).await;
    let dead = buried(&system, 1).await;
    assert_eq!(
        (&dead[0]["reason"], &dead[0]["run_id"]),
        (&json!("max_attempts"), &json!(run))
    );
    let sql = "SELECT error_code FROM agent_runs WHERE id::text = $1";
    assert_eq!(system.text(sql, &run).await, "max_attempts");
    let retried = system.act("retry", &run).await;
    let new = retried["run_id"].as_str().unwrap();
    assert_ne!(new, run);
    assert_eq!(
        (&retried["status"], &retried["message"]),
        (
            &json!("queued"),
            &json!("Agent run created and queued for processing")
        )
    );
    let of = "SELECT retry_of::text FROM agent_runs WHERE id::text = $1";
    assert_eq!(system.text(of, new).await, run);
    system.wait_status(new, "failed", LONG).await;
    assert_eq!(system.act("status", new).await["retry_of"], run.as_str());
    system.assert_whole(&run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_failure_is_buried_at_once_with_its_reason() {
    let system = Setup::workers(1).start().await;
    let run = system
        .begin(&script(&[
            json!({"type": "error", "status": 400, "attempts": 99}),
        ]))
        .await;
    system.wait_status(&run, "failed", LONG).await;
    let dead = buried(&system, 1).await;
    assert_eq!(
        (&dead[0]["reason"], &dead[0]["run_id"]),
        (&json!("permanent_error"), &json!(run))
    );
    assert_eq!(dead[0]["attempt"], 1);
    assert!(
        dead[0]["failed_at"].is_string() && dead[0]["error"].is_string(),
        "{}",
        dead[0]
    );
    system.assert_whole(&run).await;
    for list in ["pending", "processing", "retry", "high_priority"] {
        assert_eq!(system.length(list), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_by_hand_is_executed_dropped_or_buried() {
    let system = Setup::workers(1).start().await;
    let push = |text: &str| system.redis.cli(&["LPUSH", "jobs:pending", text]);
    let unknown = "7a5f0000-0000-4000-8000-000000000000";
    push(&json!({ "run_id": unknown }).to_string());
    push("no json at all");
    let dead = buried(&system, 2).await;
    let of = |reason: &str| {
        dead.iter()
            .find(|job| job["reason"] == reason)
            .unwrap_or_else(|| panic!("{dead:?}"))
    };
    assert_eq!(of("unknown_run")["run_id"], unknown);
    assert_eq!(
        (&of("undecodable")["payload"], &of("undecodable")["run_id"]),
        (&json!("no json at all"), &Value::Null)
    );

    let run = system.create(&script(&[message("by hand")])).await;
    push(&json!({ "run_id": run }).to_string());
    let pushed = Instant::now();
    eventually(SOON, || async { system.status(&run).await != "created" }).await;
    // AA-65: 1 s, and as much again for a loaded machine.
    assert!(
        pushed.elapsed() < Duration::from_secs(2),
        "{:?}",
        pushed.elapsed()
    );
    system.wait_status(&run, "completed", LONG).await;
    // Of a finished run: dropped.
    push(&json!({ "run_id": run }).to_string());
    eventually(SOON, || async {
        system.length("pending") + system.length("processing") == 0
    })
    .await;
    assert_eq!(system.steps(&run, "completed").await, 1);
    system.assert_whole(&run).await;
    assert_eq!(system.length("failed"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_entry_of_a_queued_or_running_run_is_dropped() {
    let mut system = Setup::workers(0).start().await;
    let run = system
        .begin(&script(&[
            message("one"),
            crate::support::shell("sleep 2"),
            message("two"),
        ]))
        .await;
    let hand = json!({ "run_id": run }).to_string();
    system.redis.cli(&["LPUSH", "jobs:pending", &hand]);
    system.add_worker().await;
    system.add_worker().await;
    system.wait_step(&run, 2, "running").await;
    system.redis.cli(&["LPUSH", "jobs:pending", &hand]);
    system.wait_status(&run, "completed", LONG).await;
    assert_eq!(system.steps(&run, "completed").await, 3);
    let token = "SELECT fencing_token FROM agent_runs WHERE id::text = $1";
    assert_eq!(system.count(token, &run).await, 1);
    system.assert_whole(&run).await;
    system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_with_priority_are_taken_first_and_the_others_in_their_order() {
    let mut system = Setup::workers(0)
        .worker_env("WORKER_CONCURRENCY", "1")
        .start()
        .await;
    let mut runs = Vec::new();
    for (number, priority) in [0, 0, 5, 1].into_iter().enumerate() {
        let prompt = script(&[message(&number.to_string())]);
        let body = json!({"action": "create", "prompt": prompt, "auto_start": true, "priority": priority});
        runs.push(system.execute(body).await["run_id"].as_str().unwrap().to_owned());
    }
    assert_eq!((system.length("high_priority"), system.length("pending")), (2, 2));
    system.add_worker().await;
    for run in &runs {
        system.wait_status(run, "completed", LONG).await;
    }
    let order = system
        .sql("SELECT id::text FROM agent_runs ORDER BY started_at", "")
        .await;
    let order: Vec<String> = order.iter().map(|row| row.get(0)).collect();
    let expected = [&runs[2], &runs[3], &runs[0], &runs[1]];
    assert_eq!(order.iter().collect::<Vec<_>>(), expected);
    tokio::time::timeout(Duration::from_secs(30), system.assert_queue_empties())
        .await
        .unwrap();
}
