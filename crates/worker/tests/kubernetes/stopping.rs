//! A stop ends every process within 2 s and leaves no Job; a worker that leaves stops nothing.

use crate::setup::{Bed, LIMIT, says, shell};
use agent::ports::SandboxError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use testkit::eventually;
use testkit::kube::{Fault, On};

/// Ignores TERM in every process, in sessions of their own.
const STUBBORN: &str = "trap '' TERM; (trap '' TERM; setsid sh -c \"trap '' TERM; sleep 98771\" & sleep 98771) & echo up; sleep 98771";

fn left() -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.starts_with(b"sleep\x0098771")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_a_tree_that_ignores_term_within_two_seconds() {
    let bed = Bed::start().await;
    let worker = bed.worker(&[]).await;
    let call = worker.begin(&shell(STUBBORN));
    bed.running(&call.job).await;
    eventually(LIMIT, || std::future::ready(left() >= 3)).await;
    let job = call.job.clone();
    call.cancel.cancel();
    let stopped = Instant::now();
    eventually(LIMIT, || std::future::ready(left() == 0)).await;
    let dead_after = stopped.elapsed();
    assert!(matches!(call.end().await, Err(SandboxError::Cancelled)));
    bed.is_empty().await;
    let stops = bed.api.stops();
    let stop = stops
        .iter()
        .find(|stop| stop.job == job)
        .expect("the kubelet was told");
    println!(
        "last process dead {dead_after:?} after the stop, {:?} after the kubelet was told",
        stop.took
    );
    assert!(stop.took < Duration::from_secs(2), "{:?}", stop.took);
    assert!(dead_after < Duration::from_secs(2), "{dead_after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_the_job_is_being_made_leaves_nothing() {
    let bed = Bed::start().await;
    let worker = bed.worker(&[]).await;
    bed.api.inject(
        Fault::Slow(Duration::from_millis(400)),
        On::new("create", "jobs").times(1),
    );
    let call = worker.begin(&shell("echo never"));
    eventually(LIMIT, || {
        let asked = bed.api.requests();
        std::future::ready(asked.contains_key(&("create".to_owned(), "jobs".to_owned())))
    })
    .await;
    call.cancel.cancel();
    assert!(matches!(call.end().await, Err(SandboxError::Cancelled)));
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_stops_following_and_the_next_one_goes_on() {
    let bed = Bed::start().await;
    let leaving = bed.worker(&[]).await;
    let request = shell("sleep 1; echo once");
    let call = leaving.begin(&request);
    bed.started(&call.job).await;
    // The run has not ended: only this worker's part in it.
    call.heard.over.store(false, Ordering::SeqCst);
    let job = call.job.clone();
    call.cancel.cancel();
    assert!(matches!(call.end().await, Err(SandboxError::Cancelled)));
    assert!(bed.job(&job).is_some());
    let next = bed.worker(&[]).await;
    says(next.run(&request).await, "once\n");
    assert_eq!(bed.api.starts(&job), 1);
    bed.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tools_own_time_limit_keeps_what_it_printed() {
    let bed = Bed::start().await;
    let worker = bed.worker(&[]).await;
    let mut request = shell("echo before; echo x > file; trap '' TERM; sleep 60");
    request.timeout = Duration::from_secs(1);
    let output = worker.run(&request).await.unwrap();
    assert!(output.timed_out && output.exit_code.is_none());
    assert_eq!((output.stdout.as_str(), output.artifacts.len()), ("before\n", 1));
    bed.is_empty().await;
}
