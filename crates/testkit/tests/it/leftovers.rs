//! Nothing outlives a test process, however it ends.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use testkit::eventually;

fn hold() -> (Child, Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_testkit-hold"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped"))
        .read_line(&mut line)
        .expect("a line");
    (child, serde_json::from_str(&line).expect("JSON"))
}

/// Also true for a dead child nobody has reaped: pid 1 of a container may never do so.
fn gone(pid: &Value) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.is_empty() || state.contains(") Z ")
}

async fn nothing_is_left(held: &Value) {
    let list = |name: &str| held[name].as_array().expect("a list").clone();
    eventually(Duration::from_secs(30), || async {
        list("pids").iter().all(gone)
            && list("dirs")
                .iter()
                .all(|dir| !Path::new(dir.as_str().expect("a path")).exists())
    })
    .await;
}

#[tokio::test]
async fn servers_and_data_are_gone_after_the_test_process_is_killed() {
    let (mut child, held) = hold();
    assert!(
        held["pids"]
            .as_array()
            .expect("a list")
            .iter()
            .all(|pid| !gone(pid))
    );
    child.kill().expect("SIGKILL");
    child.wait().expect("reaped");
    nothing_is_left(&held).await;
}

#[tokio::test]
async fn servers_and_data_are_gone_after_sigterm() {
    let (mut child, held) = hold();
    let ended = Command::new("kill")
        .arg(child.id().to_string())
        .status()
        .expect("kill");
    assert!(ended.success());
    child.wait().expect("reaped");
    nothing_is_left(&held).await;
}
