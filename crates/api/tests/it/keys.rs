//! API keys and the admin role.

use crate::harness::{Api, SECRET, read};
use serde_json::json;
use std::process::{Command, Output};
use testkit::jwt;

fn keys(db_url: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent-api"));
    command
        .env_clear()
        .env("DATABASE_URL", db_url)
        .arg("keys")
        .args(args);
    command.output().expect("the program runs")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn a_key_acts_for_its_user_until_it_is_revoked() {
    let api = Api::start().await;
    let key = stdout(&keys(&api.db_url, &["create", "--user", "u", "--name", "ci"]));
    assert!(
        key.starts_with("sk_agent_") && key.len() == "sk_agent_".len() + 43,
        "{key}"
    );
    let run = api.create("u").await;
    let ask = || {
        let request = api
            .client
            .post(format!("{}/agent/status", api.base))
            .bearer_auth(&key);
        request.body(json!({"run_id": run}).to_string()).send()
    };
    assert_eq!(ask().await.unwrap().status(), 200);
    let listed = stdout(&keys(&api.db_url, &["list"]));
    assert!(listed.contains("user=u") && !listed.contains(&key), "{listed}");
    let id = listed.split_whitespace().next().unwrap();
    stdout(&keys(&api.db_url, &["revoke", id]));
    let (status, answer) = read(ask().await.unwrap()).await;
    assert_eq!((status, &answer["code"]), (401, &json!("invalid_api_key")));
    assert_eq!(keys(&api.db_url, &["revoke", "nonsense"]).status.code(), Some(1));
    assert_eq!(
        keys(&api.db_url, &["create", "--user", " "]).status.code(),
        Some(64)
    );
}

#[tokio::test]
async fn only_admins_see_the_queue() {
    let mut api = Api::start().await;
    api.created_and_started("u").await;
    let path = format!("{}/debug/worker-status", api.base);
    let ask =
        async |token: String| read(api.client.get(&path).bearer_auth(token).send().await.unwrap()).await;
    let (status, answer) = ask(Api::token("u")).await;
    assert_eq!(
        (status, &answer["code"], &answer["detail"]),
        (403, &json!("forbidden"), &json!("Admin role required"))
    );
    let admin = || jwt(SECRET, "root", json!({"app_metadata": {"role": "admin"}}));
    let (status, answer) = ask(admin()).await;
    assert_eq!((status, &answer["redis_connected"]), (200, &json!(true)));
    assert_eq!(answer["queue_stats"]["pending"], 1);
    let key = stdout(&keys(&api.db_url, &["create", "--user", "root", "--admin"]));
    assert_eq!(ask(key).await.0, 200);
    api.redis.kill();
    let answer = api.client.get(&path).bearer_auth(admin()).send().await.unwrap();
    let (status, answer) = read(answer).await;
    assert_eq!((status, &answer["redis_connected"]), (200, &json!(false)));
    assert!(answer["error"].is_string());
}
