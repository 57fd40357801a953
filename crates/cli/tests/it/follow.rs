//! Following a log over bad connections.

use crate::home::Home;
use serde_json::Value;
use testkit::FaultProxy;

fn seqs(log: &str) -> Vec<i64> {
    log.lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["seq"]
                .as_i64()
                .unwrap()
        })
        .collect()
}

#[tokio::test]
async fn a_log_over_a_connection_that_is_cut_again_and_again_has_every_line_once() {
    let home = Home::new();
    home.up();
    let run = home.ok(&[
        "run",
        "--detach",
        "create a.txt, create b.txt, create c.txt, wait 1 seconds, list files",
    ]);
    let run = run.trim();
    let port = home.state()["ports"]["api"].as_u64().unwrap() as u16;
    let proxy = FaultProxy::start(port).await;
    proxy.cut_every(1500);
    let text = std::fs::read_to_string(home.path().join("env")).unwrap();
    let env = cli::envfile::parse(&text);
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let mut command = std::process::Command::new(testkit::bin("agentctl"));
    command
        .current_dir("/")
        .args(["logs", run, "-f", "--json"])
        .env_remove("AGENT_HOME")
        .env("API_URL", url)
        .env("TOKEN", &env["TOKEN"]);
    let cut = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    assert!(cut.status.success(), "{}", String::from_utf8_lossy(&cut.stderr));
    let cut = String::from_utf8(cut.stdout).unwrap();
    assert!(proxy.cuts() >= 2, "the connection was cut {} times", proxy.cuts());
    let whole = home.ok(&["logs", run, "--json"]);
    assert_eq!(
        cut, whole,
        "live over cut connections and stored are the same, line by line"
    );
    let numbers = seqs(&whole);
    let expected: Vec<i64> = (1..=numbers.len() as i64).collect();
    assert_eq!(numbers, expected);
    assert_eq!(
        seqs(&home.ok(&["logs", run, "--after", "5", "--json"])),
        expected[5..]
    );
}

#[tokio::test]
async fn an_api_that_is_not_there_is_told_with_its_remedy() {
    let free = testkit::free_port();
    let output = std::process::Command::new(testkit::bin("agentctl"))
        .current_dir("/")
        .args(["run", "list files"])
        .env("API_URL", format!("http://127.0.0.1:{free}"))
        .env("TOKEN", "x")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("does not answer") && said.contains("agentctl up"),
        "{said}"
    );
}
