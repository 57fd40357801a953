//! Tools that reach other systems, from a prompt to a settled step: with the worker's keys, which nobody else sees.

use crate::support::{LONG, Setup, System, message, script};
use crate::wire::tool;
use serde_json::{Value, json};
use testkit::eventually;
use testkit::vendors::{Instead, SLACK_KEY, TAVILY_KEY, Vendors};

fn slack(operation: &str, params: Value) -> Value {
    let input = json!({"connector_type": "slack", "operation": operation, "params": params});
    tool("connector", input)
}

async fn with_vendors(vendors: &Vendors) -> System {
    Setup::workers(1)
        .worker_env("TAVILY_API_KEY", TAVILY_KEY)
        .worker_env("TAVILY_API_URL", vendors.url("tavily"))
        .worker_env("SLACK_BOT_TOKEN", SLACK_KEY)
        .worker_env("SLACK_API_URL", vendors.url("slack"))
        .start()
        .await
}

impl System {
    async fn begin_with(&self, steps: &[Value], connector_ids: &[&str]) -> String {
        let body = json!({"action": "create", "prompt": script(steps), "connector_ids": connector_ids, "auto_start": true});
        let answer = self.execute(body).await;
        answer["run_id"].as_str().unwrap().to_owned()
    }

    async fn output(&self, run: &str, number: i32) -> Value {
        let sql = format!(
            "SELECT tool_output::text FROM agent_steps WHERE run_id::text = $1 AND step_number = {number}"
        );
        serde_json::from_str(&self.text(&sql, run).await).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_posts_searches_and_reads_with_the_workers_keys_and_none_of_them_is_stored() {
    let vendors = Vendors::start().await;
    let system = with_vendors(&vendors).await;
    let steps = [
        slack("post_message", json!({"channel": "C1", "text": "Hello"})),
        tool("search", json!({"query": "tea"})),
        tool(
            "fetch",
            json!({"url": "http://169.254.169.254/latest/meta-data/"}),
        ),
        tool(
            "connector",
            json!({"connector_type": "github", "operation": "get_repo", "params": {"repo": "o/r"}}),
        ),
        slack("list_messages", json!({"channel": "C1"})),
    ];
    let run = system.begin_with(&steps, &["slack", "github"]).await;
    system.wait_status(&run, "completed", LONG).await;
    assert_eq!(system.output(&run, 1).await["output"]["ts"], "1503435956.000247");
    let search = system.output(&run, 2).await;
    assert_eq!(
        (&search["success"], &search["output"]["provider"]),
        (&json!(true), &json!("tavily"))
    );
    assert_eq!(system.output(&run, 3).await["error"], "Address not allowed");
    let unset = "connector is not configured: set GITHUB_TOKEN";
    assert_eq!(system.output(&run, 4).await["error"], unset);
    assert_eq!(
        system.output(&run, 5).await["output"]["messages"][0]["text"],
        "Hello"
    );
    assert_eq!(vendors.complaints(), Vec::<String>::new());
    let log = system.task_log(&run).await;
    assert!(!log.contains(SLACK_KEY) && !log.contains(TAVILY_KEY), "{log}");
    system.assert_whole(&run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_that_the_run_does_not_name_is_refused() {
    let vendors = Vendors::start().await;
    let system = with_vendors(&vendors).await;
    let post = slack("post_message", json!({"channel": "C1", "text": "Hello"}));
    let run = system.begin_with(&[post, message("after")], &["github"]).await;
    system.wait_status(&run, "completed", LONG).await;
    let error = system.output(&run, 1).await["error"].clone();
    assert_eq!(
        error,
        "Connector not allowed in this run: slack (name it in connector_ids)"
    );
    assert!(vendors.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_worker_was_killed_is_asked_about_and_not_posted_again_by_itself() {
    let vendors = Vendors::start().await;
    let mut system = with_vendors(&vendors).await;
    vendors.instead(Instead::DoneInSilence);
    let post = slack("post_message", json!({"channel": "C1", "text": "Hello"}));
    let run = system.begin_with(&[post, message("after")], &["slack"]).await;
    eventually(LONG, || async { vendors.made().len() == 1 }).await;
    system.add_worker().await;
    system.workers[0].kill();
    system.wait_status(&run, "waiting_user", LONG).await;
    assert_eq!(vendors.requests().len(), 1);
}

/// What `agentctl doctor` says of each tool, by name, with these settings and no system at all.
fn doctor(settings: &[(&str, &str)]) -> std::collections::HashMap<String, Value> {
    let nothing = testkit::free_port();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_agentctl"));
    command
        .args(["doctor", "--json"])
        .current_dir("/")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("API_URL", format!("http://127.0.0.1:{nothing}"))
        .env("REDIS_URL", format!("redis://127.0.0.1:{nothing}"))
        .env("DATABASE_URL", format!("postgres://u:p@127.0.0.1:{nothing}/x"))
        .envs(settings.iter().copied());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let lines = String::from_utf8(output.stdout).unwrap();
    let parsed = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    parsed
        .map(|line| (line["check"].as_str().unwrap().to_owned(), line))
        .collect()
}

#[test]
fn the_doctor_tells_what_the_tools_are_set_to_and_which_setting_is_broken() {
    let bare = doctor(&[("TOOL_EXECUTOR", "none")]);
    assert!(
        bare["executor"]["answer"].as_str().unwrap().starts_with("none: "),
        "{bare:?}"
    );
    assert!(!bare.contains_key("sandbox"));
    for name in ["search", "connectors", "browser", "mcp"] {
        assert_eq!(bare[name]["ok"], true, "{:?}", bare[name]);
        assert!(
            bare[name]["answer"]
                .as_str()
                .unwrap()
                .starts_with("not configured")
        );
    }
    let broken = doctor(&[
        ("TOOL_EXECUTOR", "cloud"),
        ("SEARXNG_URL", "ftp://h/"),
        ("BROWSER_CDP_URL", "http://127.0.0.1:1"),
        ("MCP_SERVERS_FILE", "/nowhere/mcp.json"),
        ("SLACK_BOT_TOKEN", "xoxb-secret"),
    ]);
    for (name, said) in [
        ("executor", "TOOL_EXECUTOR: no such executor: cloud"),
        ("search", "SEARXNG_URL: "),
        ("browser", "BROWSER_CDP_URL: no connection"),
        ("mcp", "MCP_SERVERS_FILE: /nowhere/mcp.json: "),
    ] {
        let line = &broken[name];
        assert_eq!(line["ok"], false, "{line}");
        assert!(line["answer"].as_str().unwrap().starts_with(said), "{line}");
        assert!(line["fix"].is_string(), "{line}");
    }
    assert_eq!(broken["connectors"]["ok"], true);
    assert!(!format!("{broken:?}").contains("xoxb-secret"));
    let unread = doctor(&[("FETCH_MAX_BYTES", "many")]);
    let answer = unread["tools"]["answer"].as_str().unwrap();
    assert!(
        answer.contains("FETCH_MAX_BYTES") && !answer.contains('{'),
        "{answer}"
    );
}
