use crate::setup::{code, shell, start};
use agent::ports::{SandboxError, WorkspaceError};
use std::time::Duration;

#[tokio::test]
async fn processes_are_limited_and_a_fork_bomb_is_contained() {
    let setup = start().await;
    // Bounded by itself too: at most 400 processes, each for at most 5 s.
    let source = "import os, time\nmade = 0\nfor i in range(400):\n    try:\n        pid = os.fork()\n    except BlockingIOError:\n        break\n    \
                  if pid == 0:\n        time.sleep(5); os._exit(0)\n    made += 1\nprint(made)";
    let output = setup.run(&code("python", source)).await.unwrap();
    let made: u32 = output
        .stdout
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{output:?}"));
    assert!((64..=128).contains(&made), "{made} processes");
    let mut bomb = shell("b() { b | b & }; b; sleep 1; echo alive");
    bomb.timeout = Duration::from_secs(3);
    setup.run(&bomb).await.unwrap();
    // This machine still makes processes, and so does the next sandbox.
    assert_eq!(setup.sh("echo next").await.stdout, "next\n");
}

#[tokio::test]
async fn one_process_cannot_take_more_memory_than_allowed() {
    let setup = start().await;
    let output = setup
        .run(&code(
            "python",
            "x = bytearray(1500 * 1024 * 1024)\nprint('took it')",
        ))
        .await
        .unwrap();
    assert!(!output.stdout.contains("took it"));
    assert_ne!(output.exit_code, Some(0));
    let output = setup
        .run(&code(
            "python",
            "x = bytearray(600 * 1024 * 1024)\nprint('took it')",
        ))
        .await
        .unwrap();
    assert_eq!(output.stdout, "took it\n", "{}", output.stderr);
}

#[tokio::test]
async fn all_processes_together_cannot_either() {
    let setup = start().await;
    let source = "import os, time
for i in range(6):
    if os.fork() == 0:
        x = bytearray(400 * 1024 * 1024)
        time.sleep(4)
        os.write(1, b'alive\\n')
        os._exit(0)
for i in range(6):
    os.wait()";
    let output = setup.run(&code("python", source)).await.unwrap();
    // Either all of it is ended, or the kernel picked as many children as needed.
    let alive = output.stdout.lines().count();
    assert!(
        output.ended_by.as_deref() == Some("out of memory") || alive <= 2,
        "{output:?}"
    );
}

#[tokio::test]
async fn files_and_the_workspace_are_limited() {
    let setup = start().await;
    let output = setup.sh("head -c 300000000 /dev/zero > /tmp/big").await;
    assert_ne!(output.exit_code, Some(0));
    let error = setup
        .run(&shell("head -c 900000000 /dev/zero > big; sleep 15; rm -f big"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, SandboxError::Workspace(WorkspaceError::LimitExceeded)),
        "{error}"
    );
}

#[tokio::test]
async fn processor_time_is_limited_by_the_time_limit() {
    let setup = start().await;
    let mut request = shell("while :; do :; done");
    request.timeout = Duration::from_secs(1);
    let output = setup.run(&request).await.unwrap();
    assert!(output.timed_out);
}
