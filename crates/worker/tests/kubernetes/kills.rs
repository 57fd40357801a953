//! A worker killed at every named point of a call: the tool ran once, its result arrived once, nothing is left.

use crate::setup::LIMIT;
use crate::system::System;
use domain::breakage::CrashPoint;
use futures::future::join_all;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

/// A dead worker's lease runs out, another takes over, the call ends: on a loaded machine.
const TAKEN_OVER: Duration = Duration::from_secs(90);
/// Rounds over all points; `scripts/ci/kubernetes.sh --rounds` sets more.
const ROUNDS: &str = "KUBERNETES_KILL_ROUNDS";

/// Each worker has one run and dies at its point; then one worker takes over all of them.
async fn wave(system: &System, points: &[CrashPoint]) {
    let begin = |point: CrashPoint| async move {
        let at = [("AGENT_CRASH_AT", point.as_str()), ("WORKER_CONCURRENCY", "1")];
        system.worker(&at).await
    };
    let mut doomed = join_all(points.iter().copied().map(begin)).await;
    let runs = points.iter().map(|_| {
        // A second start would find the mark of the first and say so.
        system.begin(&["cat log 2>/dev/null; echo ran >> log; sleep 1; cat log"])
    });
    let runs = join_all(runs).await;
    for (worker, point) in doomed.iter_mut().zip(points) {
        let status = worker.wait(LIMIT).await;
        assert!(status.signal().is_some(), "{}: {status:?}", point.as_str());
    }
    let died = Instant::now();
    let _rescuer = system.worker(&[("WORKER_CONCURRENCY", "20")]).await;
    for run in &runs {
        system.wait_status(run, "completed", TAKEN_OVER).await;
    }
    println!(
        "{} runs taken over and ended {:?} after the last death",
        runs.len(),
        died.elapsed()
    );
    for run in &runs {
        let count = |what: &str| format!("SELECT count(*)::text FROM {what} WHERE run_id::text = $1");
        let log = system.task_log(run).await;
        assert_eq!(system.text(&count("agent_steps"), run).await, "1", "{log}");
        let results =
            "SELECT count(*)::text FROM agent_task_logs WHERE run_id::text = $1 AND log_type LIKE 'tool%'";
        assert_eq!(system.text(results, run).await, "1", "{log}");
        let stdout = "SELECT tool_output->'output'->>'stdout' FROM agent_steps WHERE run_id::text = $1";
        assert_eq!(system.text(stdout, run).await, "ran\n", "{log}");
    }
    let starts = system.bed.api.all_starts();
    assert!(starts.values().all(|count| *count == 1), "{starts:?}");
    system.bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_at_any_point_leaves_a_tool_that_ran_once_and_one_result() {
    let asked = std::env::var(ROUNDS).ok().and_then(|text| text.parse().ok());
    let rounds = asked.unwrap_or(CrashPoint::ALL.len());
    let system = System::start().await;
    let mut points = CrashPoint::ALL.iter().copied().cycle().take(rounds);
    let mut done = 0;
    loop {
        let part: Vec<CrashPoint> = points.by_ref().take(CrashPoint::ALL.len()).collect();
        if part.is_empty() {
            break;
        }
        wave(&system, &part).await;
        done += part.len();
        println!("{done} of {rounds} rounds: every tool ran once, every result arrived once, no Job is left");
    }
    assert_eq!(system.bed.api.all_starts().len(), rounds);
}
