use crate::setup::{Setup, processes_with, shell, start};
use agent::ports::{Sandbox, SandboxError, Unheard};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

async fn with_timeout(setup: &Setup, command: &str, seconds: u64) -> (agent::ports::SandboxOutput, Duration) {
    let mut request = shell(command);
    request.timeout = Duration::from_secs(seconds);
    let started = Instant::now();
    (setup.run(&request).await.unwrap(), started.elapsed())
}

#[tokio::test]
async fn large_output_is_cut_but_read_to_the_end() {
    let setup = start().await;
    let output = setup
        .sh("head -c 5000000 /dev/zero | tr '\\0' x; head -c 2000000 /dev/zero >&2; echo end > done.txt")
        .await;
    assert_eq!(output.exit_code, Some(0));
    assert!(output.truncated);
    assert_eq!(output.stdout.len(), 1024 * 1024);
    assert!(output.stderr.len() <= 1024 * 1024 && !output.stderr.contains('\0'));
    assert_eq!(setup.read("done.txt").await, "end\n");
}

#[tokio::test]
async fn the_time_limit_keeps_output_and_files() {
    let setup = start().await;
    let (output, took) = with_timeout(&setup, "echo early; echo x > kept.txt; sleep 98761", 1).await;
    assert_eq!((output.exit_code, output.timed_out), (None, true));
    assert_eq!(output.stdout, "early\n");
    assert_eq!(output.artifacts[0].file_path, "kept.txt");
    assert_eq!(setup.read("kept.txt").await, "x\n");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(processes_with("98761").is_empty());
}

#[tokio::test]
async fn a_program_may_tidy_up_at_the_time_limit() {
    let setup = start().await;
    let command = "trap 'echo tidy; exit 0' TERM; while :; do sleep 0.05; done";
    let (output, _) = with_timeout(&setup, command, 1).await;
    assert!(output.timed_out && output.exit_code.is_none());
    assert_eq!(output.stdout, "tidy\n");
}

#[tokio::test]
async fn a_tree_that_ignores_term_is_killed() {
    let setup = start().await;
    let command = "trap '' TERM; (trap '' TERM; setsid sh -c \"trap '' TERM; sleep 98762\" & sleep 98762) & sleep 98762";
    let (output, took) = with_timeout(&setup, command, 1).await;
    assert!(output.timed_out);
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(processes_with("98762").is_empty());
}

#[tokio::test]
async fn background_processes_end_with_the_program() {
    let setup = start().await;
    let started = Instant::now();
    let output = setup
        .sh("setsid sleep 98763 & nohup sleep 98763 >/dev/null 2>&1 & echo left")
        .await;
    assert_eq!((output.stdout.as_str(), output.exit_code), ("left\n", Some(0)));
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(processes_with("98763").is_empty());
}

#[tokio::test]
async fn cancelling_leaves_no_process_within_a_second() {
    let setup = start().await;
    let cancel = CancellationToken::new();
    let request = shell("trap '' TERM; setsid sleep 98764 & sleep 98764");
    let running = setup.sandbox.run(&request, &Unheard, &cancel);
    let cancelled = async {
        let deadline = Instant::now() + Duration::from_secs(10);
        // The gate and the shell have the number in their arguments as well; two sleeps mean that it runs.
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
async fn many_run_beside_each_other() {
    let setup = start().await;
    let commands: Vec<String> = (0..8).map(|number| format!("sleep 0.2; echo {number}")).collect();
    let runs = commands.iter().map(|command| setup.sh(command));
    let outputs = futures::future::join_all(runs).await;
    let texts: Vec<String> = outputs.into_iter().map(|output| output.stdout).collect();
    assert_eq!(
        texts,
        (0..8).map(|number| format!("{number}\n")).collect::<Vec<_>>()
    );
}
