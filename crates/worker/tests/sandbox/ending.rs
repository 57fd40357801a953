use crate::setup::{processes_with, shell, start};
use agent::ports::{Sandbox, SandboxError, Unheard};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn cancelling_leaves_no_process_within_a_second() {
    let setup = start().await;
    let cancel = CancellationToken::new();
    let request = shell("trap '' TERM; setsid sleep 98764 & sleep 98764");
    let running = setup.sandbox.run(&request, &Unheard, &cancel);
    let cancelled = async {
        let deadline = Instant::now() + Duration::from_secs(10);
        // The shell has the number in its arguments as well; two sleeps mean that it runs.
        while processes_with("sleep\u{0}98764").len() < 2 {
            assert!(Instant::now() < deadline, "the program did not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        cancel.cancel();
        Instant::now()
    };
    let (result, at) = tokio::join!(running, cancelled);
    assert!(matches!(result, Err(SandboxError::Cancelled)), "{result:?}");
    assert!(at.elapsed() < Duration::from_secs(1), "{:?}", at.elapsed());
    assert!(processes_with("98764").is_empty());
    assert_eq!(setup.leftovers(), 0);
}

#[tokio::test]
async fn dropping_the_call_kills_the_program() {
    let setup = start().await;
    let request = shell("sleep 98765");
    let cut = tokio::time::timeout(Duration::from_millis(700), setup.run(&request)).await;
    assert!(cut.is_err());
    let deadline = Instant::now() + Duration::from_secs(3);
    while !processes_with("98765").is_empty() {
        assert!(Instant::now() < deadline, "{:?}", processes_with("98765"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(setup.leftovers(), 0);
}

#[tokio::test]
async fn a_program_that_computes_for_ever_ends_at_the_time_limit() {
    let setup = start().await;
    let mut request = shell("while :; do :; done");
    request.timeout = Duration::from_secs(1);
    let output = setup.run(&request).await.unwrap();
    assert!(output.timed_out);
}
