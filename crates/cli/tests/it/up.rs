//! Deaths and repeated calls.

use crate::home::{Home, SOON, kill};
use std::time::Duration;
use testkit::eventually;

const PROMPT: &str = "list files";

#[tokio::test]
async fn a_killed_supervisor_takes_everything_with_it_and_the_data_survives() {
    let home = Home::new();
    home.up();
    let run = home.ok(&["run", "--detach", "create kept.txt with some words"]);
    home.ok(&["logs", run.trim(), "-f"]);
    assert!(home.processes().len() >= 5, "the system runs");
    kill(home.supervisor().unwrap(), "-KILL");
    home.is_empty_soon().await;
    home.up();
    assert_eq!(home.ok(&["files", run.trim(), "get", "kept.txt"]), "some words");
    assert!(home.ok(&["runs"]).contains(run.trim()));
    home.ok(&["down"]);
    home.is_empty_soon().await;
}

#[tokio::test]
async fn every_child_that_dies_is_started_again() {
    let home = Home::new();
    home.up();
    for name in ["worker-1", "api", "redis", "postgres"] {
        let before = home.child(name).unwrap();
        kill(before, "-KILL");
        eventually(SOON, || async {
            home.child(name).is_some_and(|now| now != before)
        })
        .await;
        eventually(SOON, || async { home.run(&["status"]).status.success() }).await;
    }
    // Readiness may be a few seconds old.
    eventually(SOON, || async { home.run(&["run", PROMPT]).status.success() }).await;
    let log = std::fs::read_to_string(home.path().join("logs/agentctl.log")).unwrap();
    assert!(
        log.contains("postgres ended (SIGKILL); starting it again"),
        "{log}"
    );
}

#[tokio::test]
async fn a_second_start_says_so_and_a_later_one_finds_the_same_addresses() {
    let home = Home::new();
    let first = home.up();
    let ports = home.state()["ports"].clone();
    let second = home.run(&["up"]);
    assert!(second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("already running"));
    assert_eq!(String::from_utf8_lossy(&second.stdout), first);
    home.ok(&["down"]);
    home.is_empty_soon().await;
    assert_eq!(home.up(), first, "addresses and token are stable");
    assert_eq!(home.state()["ports"], ports);
    let down = home.run(&["down"]);
    assert!(down.status.success());
    assert!(home.run(&["down"]).status.success(), "down twice is no fault");
}

#[tokio::test]
async fn an_interrupt_in_the_foreground_stops_all_in_order_with_a_run_under_way() {
    let home = Home::new();
    let mut up = home
        .command(&["up"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually(SOON, || async { home.state()["ready"] == true }).await;
    let run = home.ok(&["run", "--detach", "wait 60 seconds"]);
    eventually(SOON, || async {
        home.ok(&["status", run.trim(), "--json"])
            .contains("\"executing\"")
    })
    .await;
    kill(i64::from(up.id()), "-INT");
    let ended = tokio::task::spawn_blocking(move || up.wait())
        .await
        .unwrap()
        .unwrap();
    assert!(ended.success(), "{ended}");
    home.is_empty_soon().await;
    assert_eq!(home.supervisor(), None);
}

#[tokio::test]
async fn a_start_that_cannot_succeed_says_why_and_leaves_nothing() {
    let home = Home::new();
    let output = home
        .command(&["up", "--detach"])
        .env("LLM_PRIMARY_PROVIDER", "no-such-model")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("worker-1 ended with exit code 64"), "{said}");
    assert!(
        said.contains("LLM_PRIMARY_PROVIDER"),
        "the log's own words: {said}"
    );
    home.is_empty_soon().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let started = std::time::Instant::now();
    let output = home.run(&["up", "--api-port", &port]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("port {port} is taken")));
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "nothing is started before"
    );
}
