//! Programs under test.

use std::time::Duration;

use testkit::Program;

const SOON: Duration = Duration::from_secs(20);

fn shell(script: &str) -> Program {
    Program::new("/bin/sh").arg("-c").arg(script)
}

#[tokio::test]
async fn output_and_exit_code_are_captured() {
    let mut process = shell("echo out $GIVEN; echo err >&2; exit 69")
        .env("GIVEN", "value")
        .start();
    assert_eq!(process.wait(SOON).await.code(), Some(69));
    assert_eq!(
        (process.stdout().as_str(), process.stderr().as_str()),
        ("out value\n", "err\n")
    );
}

#[tokio::test]
async fn the_environment_of_the_test_is_not_inherited() {
    let mut process = shell("env").start();
    assert!(process.wait(SOON).await.success());
    assert!(
        process.stdout().contains("PATH=") && !process.stdout().contains("CARGO_"),
        "{}",
        process.stdout()
    );
}

#[tokio::test]
async fn signals_reach_the_process() {
    let mut process = shell("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done").start();
    process.wait_for_output("ready", SOON).await;
    process.term();
    assert!(process.wait(SOON).await.success());
    assert_eq!(process.stdout(), "ready\nbye\n");
    let mut process = shell("sleep 1000").start();
    process.kill();
    assert!(!process.ended().expect("ended").success());
}

#[test]
fn a_missing_program_names_the_build_command() {
    let message = std::panic::catch_unwind(|| testkit::bin("no-such-program")).expect_err("must panic");
    let message = message.downcast_ref::<String>().expect("a formatted message");
    assert!(message.contains("cargo build --workspace --bins"), "{message}");
}
