use crate::setup::{PROGRAM, code, in_memory, permissions, start, start_with, try_with};
use std::path::Path;
use std::process::Command;

#[tokio::test]
async fn python_runs_in_the_working_directory_and_shows_its_source_in_errors() {
    let setup = start().await;
    setup.sh("echo 'def add(a, b): return a + b' > mine.py").await;
    let output = setup
        .run(&code(
            "python",
            "import mine\nprint(mine.add(2, 3))\nraise ValueError('boom')",
        ))
        .await
        .unwrap();
    assert_eq!(output.stdout, "5\n");
    assert!(
        output.stderr.contains("line 3") && output.stderr.contains("ValueError: boom"),
        "{}",
        output.stderr
    );
    assert_eq!(output.exit_code, Some(1));
    assert_eq!(setup.names().await, ["mine.py"]);
    let main = setup
        .run(&code("python", "if __name__ == '__main__':\n    print('main')"))
        .await
        .unwrap();
    assert_eq!(main.stdout, "main\n");
}

/// Another name of a file, or a copy where it cannot have one.
fn same(from: &Path, to: &Path) {
    std::fs::hard_link(from, to)
        .or_else(|_| std::fs::copy(from, to).map(drop))
        .unwrap();
}

#[tokio::test]
async fn our_own_program_may_lie_below_a_directory_that_others_cannot_pass() {
    let closed = tempfile::Builder::new()
        .permissions(permissions(0o700))
        .tempdir()
        .unwrap();
    let program = closed.path().join("agent-worker");
    same(PROGRAM.as_ref(), &program);
    let setup = start_with(&program).await;
    assert_eq!(setup.sh("echo ran").await.stdout, "ran\n");
}

#[tokio::test]
async fn a_program_that_does_not_confine_itself_is_not_taken_for_one_that_does() {
    let setup = try_with("/usr/bin/env".as_ref(), in_memory()).await;
    assert!(!setup.sandbox.is_available(), "{}", setup.sandbox.describe());
}

#[test]
fn the_check_says_what_isolates() {
    let mut command = Command::new(PROGRAM);
    let scratch = tempfile::Builder::new()
        .permissions(permissions(0o755))
        .tempdir()
        .unwrap();
    command
        .args(["check", "sandbox"])
        .env_clear()
        .env("TOOL_SCRATCH_DIR", scratch.path().join("s"));
    command
        .env("DATABASE_URL", "postgresql://127.0.0.1/x")
        .env("REDIS_URL", "redis://127.0.0.1/");
    let said = command.output().unwrap();
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(
        said.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&said.stderr)
    );
    assert!(
        text.starts_with("sandbox: ok (bubblewrap namespaces as "),
        "{text}"
    );
    assert!(
        text.contains(", Landlock ") && text.contains("a filter of system calls"),
        "{text}"
    );
}
