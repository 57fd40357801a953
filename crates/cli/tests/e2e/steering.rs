//! Runs that are stopped, paused, asked, or out of time.

use crate::support::{LONG, SOON, Setup, message, processes_with, script, shell, sleep_ms};
use serde_json::json;
use std::time::{Duration, Instant};
use testkit::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_stopped_while_queued_is_never_planned() {
    let mut system = Setup::workers(0).start().await;
    let run = system.begin(&script(&[message("never")])).await;
    assert_eq!(system.length("pending"), 1);
    assert_eq!(system.act("stop", &run).await["status"], "cancelled");
    system.assert_queue_empties().await;
    let other = system.begin(&script(&[message("after")])).await;
    system.add_worker().await;
    system.wait_status(&other, "completed", LONG).await;
    assert_eq!(system.status(&run).await, "cancelled");
    let begun = "SELECT count(*) FROM agent_runs WHERE id::text = $1 AND started_at IS NOT NULL";
    assert_eq!(system.count(begun, &run).await, 0);
    system.assert_whole(&run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_stopped_during_a_tool_call_ends_the_process_and_writes_nothing_after_complete() {
    let system = Setup::workers(1).start().await;
    let run = system
        .begin(&script(&[shell("sleep 9753"), message("never")]))
        .await;
    system.wait_steps(&run, "running", 1).await;
    eventually(SOON, || async { processes_with("9753") > 0 }).await;
    let asked = Instant::now();
    assert_eq!(
        system.act("stop", &run).await["message"],
        "Agent execution stopped"
    );
    eventually(SOON, || async { processes_with("9753") == 0 }).await;
    let waited = asked.elapsed();
    assert!(
        waited < Duration::from_secs(5),
        "the process was gone only after {waited:?}"
    );
    let named = system.assert_whole(&run).await;
    let tail: Vec<&str> = named
        .iter()
        .rev()
        .take(3)
        .filter_map(|frame| frame.event.as_deref())
        .collect();
    assert_eq!(tail, ["complete", "status", "tool_result"]);
    let result = named[named.len() - 3].json();
    assert_eq!(
        (&result["success"], &result["error"]),
        (&json!(false), &json!("Cancelled"))
    );
    assert_eq!(named.last().unwrap().json()["status"], "cancelled");
    assert_eq!(system.steps(&run, "cancelled").await, 1);
    let count = "SELECT count(*) FROM agent_steps WHERE run_id::text = $1";
    assert_eq!(system.count(count, &run).await, 1);
    let last_seq = "SELECT last_seq FROM agent_runs WHERE id::text = $1";
    let end = system.count(last_seq, &run).await;
    system.assert_queue_empties().await;
    assert_eq!(system.count(last_seq, &run).await, end);
    // The worker is free again.
    let next = system.begin(&script(&[message("next")])).await;
    system.wait_status(&next, "completed", LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_paused_while_its_model_thinks_frees_the_worker_at_once() {
    let system = Setup::workers(1)
        .worker_env("WORKER_CONCURRENCY", "1")
        .start()
        .await;
    let run = system.begin(&script(&[sleep_ms(120_000), message("late")])).await;
    system.wait_status(&run, "executing", LONG).await;
    system.act("pause", &run).await;
    system.assert_queue_empties().await;
    let other = system.begin(&script(&[message("meanwhile")])).await;
    system.wait_status(&other, "completed", LONG).await;
    assert_eq!(system.status(&run).await, "paused");
    assert_eq!(system.act("stop", &run).await["status"], "cancelled");
    system.assert_whole(&run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_frees_its_worker_and_goes_on_at_the_next_step() {
    let system = Setup::workers(1)
        .worker_env("WORKER_CONCURRENCY", "1")
        .start()
        .await;
    let steps = [message("one"), shell("sleep 2"), message("three")];
    let run = system.begin(&script(&steps)).await;
    system.wait_step(&run, 2, "running").await;
    let paused = system.act("pause", &run).await;
    assert_eq!(
        (&paused["status"], &paused["message"]),
        (&json!("paused"), &json!("Agent execution paused"))
    );
    system.assert_queue_empties().await;
    assert_eq!(
        system.steps(&run, "completed").await,
        2,
        "the running step settles"
    );
    let other = system.begin(&script(&[message("meanwhile")])).await;
    system.wait_status(&other, "completed", LONG).await;
    assert_eq!(system.status(&run).await, "paused");
    let resumed = system.act("resume", &run).await;
    assert_eq!(
        (&resumed["status"], &resumed["message"]),
        (&json!("executing"), &json!("Agent execution resumed"))
    );
    system.wait_status(&run, "completed", LONG).await;
    assert_eq!(system.steps(&run, "completed").await, 3);
    let plannings = "SELECT count(*) FROM agent_task_logs WHERE run_id::text = $1 AND metadata->>'to_status' = 'planning'";
    assert_eq!(system.count(plannings, &run).await, 1);
    system.assert_whole(&run).await;
    system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_asks_waits_without_a_worker_and_goes_on_with_the_answer() {
    let system = Setup::workers(1).start().await;
    let ask = json!({"type": "request_input", "message": "Which colour?"});
    let run = system
        .begin(&script(&[message("one"), ask, message("two")]))
        .await;
    system.wait_status(&run, "waiting_user", LONG).await;
    system.assert_queue_empties().await;
    let asked = "SELECT count(*) FROM agent_messages WHERE run_id::text = $1 AND role = 'assistant' AND content = 'Which colour?'";
    assert_eq!(system.count(asked, &run).await, 1);
    let resume = json!({"action": "resume", "run_id": run, "user_input": "blue"});
    let answer = system.execute(resume).await;
    assert_eq!(
        (&answer["status"], &answer["message"]),
        (&json!("executing"), &json!("Agent execution resumed"))
    );
    system.wait_status(&run, "completed", LONG).await;
    let said =
        "SELECT count(*) FROM agent_messages WHERE run_id::text = $1 AND role = 'user' AND content = 'blue'";
    assert_eq!(system.count(said, &run).await, 1);
    assert_eq!(system.steps(&run, "completed").await, 2);
    system.assert_whole(&run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_model_does_not_keep_a_worker_from_leaving_or_a_run_from_stopping() {
    let mut system = Setup::workers(1).start().await;
    let run = system
        .begin(&script(&[message("one"), sleep_ms(60_000), message("two")]))
        .await;
    system.wait_steps(&run, "completed", 1).await;
    assert_eq!(system.act("stop", &run).await["status"], "cancelled");
    system.assert_queue_empties().await;
    let run = system
        .begin(&script(&[message("one"), sleep_ms(3_000), message("two")]))
        .await;
    system.wait_steps(&run, "completed", 1).await;
    system.workers[0].term();
    assert_eq!(system.workers[0].wait(SOON).await.code(), Some(0));
    system.add_worker().await;
    system.wait_status(&run, "completed", LONG).await;
    assert_eq!(system.steps(&run, "completed").await, 2);
    system.assert_whole(&run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_take_or_wait_too_long_time_out_and_stop_their_tool() {
    let setup = Setup::workers(1).worker_env("AGENT_RUN_TIMEOUT_SECONDS", "3");
    let system = setup
        .worker_env("AGENT_WAITING_TIMEOUT_SECONDS", "2")
        .start()
        .await;
    let long = system.begin(&script(&[shell("sleep 8642")])).await;
    let ask = json!({"type": "request_input", "message": "Well?"});
    let waiting = system.begin(&script(&[ask])).await;
    system.wait_status(&long, "timeout", SOON).await;
    system.wait_status(&waiting, "timeout", SOON).await;
    let error = "SELECT error_message FROM agent_runs WHERE id::text = $1";
    assert_eq!(system.text(error, &long).await, "Run deadline exceeded");
    assert_eq!(
        system.text(error, &waiting).await,
        "Waiting for user input timed out"
    );
    eventually(SOON, || async { processes_with("8642") == 0 }).await;
    system.assert_whole(&long).await;
    system.assert_whole(&waiting).await;
    system.assert_queue_empties().await;
}
