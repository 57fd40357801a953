//! Workers that die, leave, or are told to stop.

use crate::support::{LONG, SOON, Setup, System, message, processes_with, script, shell, sleep_ms, write};
use serde_json::Value;
use std::time::{Duration, Instant};
use testkit::{eventually, eventually_some};

/// AA-70, plus what a loaded machine needs to notice it.
const TAKE_OVER_LIMIT: Duration = Duration::from_secs(12);

async fn fencing_token(system: &System, run: &str) -> i64 {
    let sql = "SELECT fencing_token FROM agent_runs WHERE id::text = $1";
    system.count(sql, run).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_replaced_within_twelve_seconds_and_settled_steps_stay_settled() {
    let mut system = Setup::workers(1).start().await;
    let steps = [
        write("one.txt", "1"),
        shell("sleep 6; cat one.txt; printf 2 > two.txt"),
        write("three.txt", "3"),
    ];
    let run = system.begin(&script(&steps)).await;
    system.wait_step(&run, 2, "running").await;
    let settled = "SELECT completed_at::text FROM agent_steps WHERE run_id::text = $1 AND step_number = 1";
    let settled_at = system.text(settled, &run).await;
    let second = "SELECT id::text FROM agent_steps WHERE run_id::text = $1 AND step_number = 2";
    let second_id = system.text(second, &run).await;
    system.add_worker().await;
    system.workers[0].kill();
    let killed = Instant::now();
    let taken = eventually_some(SOON, || async {
        (fencing_token(&system, &run).await == 2).then_some(())
    });
    assert!(
        taken.await.is_some(),
        "nobody took over:\n{}",
        system.task_log(&run).await
    );
    let waited = killed.elapsed();
    assert!(waited <= TAKE_OVER_LIMIT, "taken over only after {waited:?}");
    system.wait_status(&run, "completed", LONG).await;
    let named = system.assert_whole(&run).await;
    let calls = named
        .iter()
        .filter(|frame| frame.event.as_deref() == Some("tool_call"));
    assert_eq!(calls.count(), 3);
    assert_eq!(system.text(settled, &run).await, settled_at);
    assert_eq!(system.text(second, &run).await, second_id);
    assert_eq!(system.steps(&run, "completed").await, 3);
    let stdout = "SELECT tool_output->'output'->>'stdout' FROM agent_steps WHERE run_id::text = $1 AND step_number = 2";
    assert_eq!(system.text(stdout, &run).await, "1");
    let turns = "SELECT count(*) FROM token_records WHERE run_id::text = $1";
    let distinct = "SELECT count(*) FROM agent_turns WHERE run_id::text = $1";
    assert!(system.count(turns, &run).await <= system.count(distinct, &run).await + 1);
    let crashes = "SELECT retry_count::bigint FROM agent_runs WHERE id::text = $1";
    assert!(system.count(crashes, &run).await <= 1);
    system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_killed_workers_tool_stays_behind() {
    let mut system = Setup::workers(1).start().await;
    let run = system.begin(&script(&[shell("sleep 7531")])).await;
    system.wait_steps(&run, "running", 1).await;
    eventually(SOON, || async { processes_with("7531") > 0 }).await;
    system.workers[0].kill();
    eventually(SOON, || async { processes_with("7531") == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_to_leave_hands_its_run_over_and_ends_with_zero() {
    let mut system = Setup::workers(1).start().await;
    let steps: Vec<Value> = (0..6)
        .map(|number| shell(&format!("sleep 1; printf {number}")))
        .collect();
    let run = system.begin(&script(&steps)).await;
    eventually(SOON, || async { system.steps(&run, "completed").await >= 1 }).await;
    system.add_worker().await;
    system.workers[0].term();
    let status = system.workers[0].wait(SOON).await;
    assert_eq!(status.code(), Some(0));
    system.wait_status(&run, "completed", LONG).await;
    assert_eq!(system.steps(&run, "completed").await, 6);
    let row = &system
        .sql(
            "SELECT retry_count, crash_count, fencing_token FROM agent_runs WHERE id::text = $1",
            &run,
        )
        .await[0];
    assert_eq!(
        (row.get::<_, i32>(0), row.get::<_, i32>(1)),
        (0, 0),
        "attempt unchanged"
    );
    assert_eq!(row.get::<_, i64>(2), 2, "claimed once by each");
    system.assert_whole(&run).await;
    system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_worker_lets_a_short_running_step_end_and_stops_a_long_one() {
    let mut system = Setup::workers(1)
        .worker_env("WORKER_SHUTDOWN_GRACE_SECONDS", "2")
        .start()
        .await;
    let run = system.begin(&script(&[message("one"), shell("sleep 8")])).await;
    system.wait_step(&run, 2, "running").await;
    system.workers[0].term();
    let status = system.workers[0].wait(Duration::from_secs(15)).await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(system.length("pending"), 1, "{:?}", system.lengths());
    assert_eq!(system.jobs("pending")[0]["attempt"], 1);
    system.add_worker().await;
    system.wait_status(&run, "completed", LONG).await;
    system.assert_whole(&run).await;
    let retries = "SELECT retry_count::bigint FROM agent_runs WHERE id::text = $1";
    assert_eq!(system.count(retries, &run).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_loses_its_run_and_can_write_nothing_to_it_when_it_wakes() {
    let mut system = Setup::workers(1).start().await;
    let steps = [message("one"), shell("sleep 4; printf 2"), message("three")];
    let run = system.begin(&script(&steps)).await;
    system.wait_step(&run, 2, "running").await;
    system.add_worker().await;
    system.workers[0].pause();
    system.wait_status(&run, "completed", LONG).await;
    let last_seq = "SELECT last_seq FROM agent_runs WHERE id::text = $1";
    let end = system.count(last_seq, &run).await;
    system.workers[0].unpause();
    let next = system
        .begin(&script(&[message("next"), message("and more")]))
        .await;
    system.wait_status(&next, "completed", LONG).await;
    // The woken worker is ready again, so it has had its turn at the old run.
    let url = format!("http://127.0.0.1:{}/readyz", system.admin[0]);
    eventually(SOON, || async { system.code(&url).await == Some(200) }).await;
    system.assert_queue_empties().await;
    assert_eq!(system.count(last_seq, &run).await, end);
    assert_eq!(system.steps(&run, "completed").await, 3);
    system.assert_whole(&run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_workers_die_three_times_in_a_row_is_buried_as_poison() {
    let setup = Setup::workers(1).worker_env("WORKER_LEASE_SECONDS", "3");
    let mut system = setup.worker_env("WORKER_HEARTBEAT_SECONDS", "1").start().await;
    let run = system.begin(&script(&[shell("sleep 600")])).await;
    for worker in 0..3 {
        let token = i64::try_from(worker).unwrap() + 1;
        let claimed = eventually_some(SOON, || async {
            (fencing_token(&system, &run).await == token).then_some(())
        });
        assert!(
            claimed.await.is_some(),
            "claim {token}:\n{}",
            system.task_log(&run).await
        );
        system.wait_step(&run, 1, "running").await;
        system.workers[worker].kill();
        system.add_worker().await;
    }
    system.wait_status(&run, "failed", LONG).await;
    let row = system
        .text("SELECT error_code FROM agent_runs WHERE id::text = $1", &run)
        .await;
    assert_eq!(row, "poison");
    eventually(SOON, || async { system.length("failed") == 1 }).await;
    assert_eq!(system.jobs("failed")[0]["reason"], "poison");
    assert_eq!((system.length("processing"), system.length("pending")), (0, 0));
    system.assert_whole(&run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_killed_at_once_loses_no_run() {
    let mut system = Setup::workers(1)
        .worker_env("WORKER_CONCURRENCY", "1")
        .start()
        .await;
    let running = system
        .begin(&script(&[message("one"), shell("sleep 2"), message("three")]))
        .await;
    system.wait_step(&running, 2, "running").await;
    let queued = system.begin(&script(&[message("one")])).await;
    system.redis.kill();
    system.workers[0].kill();
    system.api.kill();
    system.redis.restart().await;
    system.restart_api().await;
    system.add_worker().await;
    for (run, steps) in [(&running, 3), (&queued, 1)] {
        system.wait_status(run, "completed", LONG).await;
        assert_eq!(system.steps(run, "completed").await, steps);
        system.assert_whole(run).await;
    }
    system.assert_queue_empties().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_survive_workers_that_are_killed_again_and_again() {
    const RUNS: i64 = 40;
    let mut system = Setup::workers(2).start().await;
    let steps = [
        message("one"),
        sleep_ms(300),
        message("two"),
        sleep_ms(300),
        write("three.txt", "3"),
    ];
    for _ in 0..RUNS {
        system.begin(&script(&steps)).await;
    }
    let done = "SELECT count(*) FROM agent_runs WHERE status = 'completed'";
    for victim in 0..3 {
        let before = system.count(done, "").await;
        eventually(LONG, || async {
            system.count(done, "").await >= (before + 2).min(RUNS)
        })
        .await;
        system.workers[victim].kill();
        system.add_worker().await;
    }
    eventually(LONG, || async { system.count(done, "").await == RUNS }).await;
    let wrong = "SELECT count(*) FROM (SELECT run_id FROM agent_steps GROUP BY run_id
        HAVING count(*) <> 3 OR count(*) FILTER (WHERE status = 'completed') <> 3) AS bad";
    assert_eq!(system.count(wrong, "").await, 0);
    let gaps = "SELECT count(*) FROM (SELECT run_id FROM agent_task_logs GROUP BY run_id
        HAVING count(*) <> max(seq) OR count(*) FILTER (WHERE log_type = 'complete') <> 1
        OR count(*) FILTER (WHERE metadata->>'event' = 'tool_call') <> 3
        OR count(*) FILTER (WHERE log_type = 'tool_success') <> 3) AS bad";
    assert_eq!(system.count(gaps, "").await, 0);
    let artifacts = "SELECT count(*) FROM agent_artifacts";
    assert_eq!(system.count(artifacts, "").await, RUNS);
    system.assert_queue_empties().await;
}
