//! Making runs once, paying for them, and paging through many.

use crate::errors::{expected, problem};
use crate::harness::{Api, SECRET, SOON, client, program, read};
use domain::RunId;
use futures::future::join_all;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use testkit::{FaultProxy, eventually, free_port, jwt};

async fn sql(url: &str, text: &str) {
    let (database, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .expect("a database");
    let connected = tokio::spawn(connection);
    database.batch_execute(text).await.expect("sound SQL");
    drop(database);
    connected.await.unwrap().unwrap();
}

async fn create_with_key(api: &Api, base: &str, key: &str, prompt: &str) -> reqwest::Result<(u16, Value)> {
    let request = api
        .client
        .post(format!("{base}/agent/execute"))
        .bearer_auth(Api::token("u"));
    let body = json!({"action": "create", "prompt": prompt, "auto_start": true}).to_string();
    let answer = request.header("idempotency-key", key).body(body).send().await?;
    Ok(read(answer).await)
}

async fn runs(api: &Api) -> usize {
    let page = api.done("u", json!({"action": "list", "limit": 100})).await;
    page["runs"].as_array().unwrap().len()
}

#[tokio::test]
async fn two_hundred_creates_with_one_key_make_one_run() {
    let api = Api::start().await;
    let all = join_all((0..200).map(|_| create_with_key(&api, &api.base, "key-1", "x"))).await;
    let mut ids = BTreeSet::new();
    for answer in all {
        let (status, body) = answer.unwrap();
        assert_eq!(status, 200, "{body}");
        ids.insert(body.to_string());
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(runs(&api).await, 1);
    assert_eq!(api.length("jobs:pending"), 1);
    let (status, other) = create_with_key(&api, &api.base, "key-1", "y").await.unwrap();
    assert_eq!((status, &other["code"]), (409, &json!("idempotency_conflict")));
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_with_the_process_gives_the_same_run_again() {
    let mut api = Api::start().await;
    let port = api.base.rsplit(':').next().unwrap().parse().unwrap();
    let proxy = FaultProxy::start(port).await;
    let lossy = format!("http://127.0.0.1:{}", proxy.port());
    proxy.drop_reply_to("key-2");
    assert!(
        create_with_key(&api, &lossy, "key-2", "x").await.is_err(),
        "no answer came"
    );
    // Committed, and unknown to whoever asked; then the process is gone.
    api.process.kill();
    let ports = (free_port(), free_port());
    let second = program(&api.db_url, &api.redis.url(), ports, &[]).start();
    api.base = format!("http://127.0.0.1:{}", ports.0);
    eventually(SOON, || async {
        let answer = client().get(format!("{}/ready", api.base)).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let first = create_with_key(&api, &api.base, "key-2", "x").await.unwrap();
    let again = create_with_key(&api, &api.base, "key-2", "x").await.unwrap();
    assert_eq!(first.0, 200, "{first:?}");
    assert_eq!(first, again);
    assert_eq!(runs(&api).await, 1);
    drop(second);
}

#[tokio::test]
async fn without_credits_no_run_is_made_and_admins_need_none() {
    let api = Api::start_with(&[("CREDITS_ENFORCED", "true")]).await;
    let create = json!({"action": "create", "prompt": "x"});
    let sent = api.post("u", "/agent/execute", &create).send().await.unwrap();
    let refusal = expected(402, "insufficient_credits", "Insufficient credits");
    assert_eq!(problem(sent).await, refusal);
    let blank = json!({"action": "create", "prompt": " "});
    assert_eq!(api.execute("u", blank).await.1["code"], "prompt_required");
    let admin = jwt(SECRET, "boss", json!({"role": "admin"}));
    let request = api
        .client
        .post(format!("{}/agent/execute", api.base))
        .bearer_auth(admin);
    assert_eq!(
        request.body(create.to_string()).send().await.unwrap().status(),
        200
    );
    sql(
        &api.db_url,
        "INSERT INTO credit_balances (user_id, available_credits) VALUES ('u', 1)",
    )
    .await;
    let (status, first) = create_with_key(&api, &api.base, "paid", "x").await.unwrap();
    assert_eq!(status, 200, "{first}");
    sql(&api.db_url, "UPDATE credit_balances SET available_credits = 0").await;
    let failed = format!(
        "UPDATE agent_runs SET status = 'failed' WHERE id = '{}'",
        first["run_id"].as_str().unwrap()
    );
    sql(&api.db_url, &failed).await;
    let retry = json!({"action": "retry", "run_id": first["run_id"]});
    let sent = api.post("u", "/agent/execute", &retry).send().await.unwrap();
    assert_eq!(problem(sent).await, refusal);
    assert_eq!(api.execute("u", create).await.0, 402);
    let (status, again) = create_with_key(&api, &api.base, "paid", "x").await.unwrap();
    assert_eq!((status, again), (200, first), "what was paid is answered again");
}

#[tokio::test]
async fn a_new_user_gets_the_initial_grant_once() {
    let grant = [("CREDITS_ENFORCED", "true"), ("CREDITS_INITIAL_GRANT", "2.5")];
    let api = Api::start_with(&grant).await;
    api.create("u").await;
    sql(
        &api.db_url,
        "UPDATE credit_balances SET available_credits = available_credits - 2.5",
    )
    .await;
    let (status, _) = api.execute("u", json!({"action": "create", "prompt": "x"})).await;
    assert_eq!(status, 402, "spent, and not granted again");
    api.create("somebody new").await;
}

#[tokio::test]
async fn ten_thousand_runs_are_paged_through_once_each_while_others_are_made() {
    const RUNS: usize = 10_000;
    let api = Api::start().await;
    let many = format!(
        "INSERT INTO agent_runs (id, origin, user_id, prompt, status, created_at, last_event_at)
         SELECT gen_random_uuid(), 'agent_api', 'u', 'old', CASE WHEN n % 10 = 0 THEN 'waiting_user' ELSE 'created' END,
                timestamptz '2026-01-01' + (n / 7) * interval '1 second', now()
         FROM generate_series(1, {RUNS}) n"
    );
    sql(&api.db_url, &many).await;
    let mut seen = BTreeSet::new();
    let mut cursor = Value::Null;
    loop {
        let page = api
            .done("u", json!({"action": "list", "limit": 100, "cursor": cursor}))
            .await;
        for run in page["runs"].as_array().unwrap() {
            if run["prompt"] == "old" {
                assert!(seen.insert(run["id"].to_string()), "twice: {run}");
            }
        }
        cursor = page["next_cursor"].clone();
        if cursor.is_null() {
            break;
        }
        api.create("u").await;
    }
    assert_eq!(seen.len(), RUNS);
    let waiting = api
        .done(
            "u",
            json!({"action": "list", "status": "waiting_input", "limit": 3}),
        )
        .await;
    let statuses: Vec<&Value> = waiting["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| &run["status"])
        .collect();
    assert_eq!(statuses, [&json!("waiting_user"); 3]);
    let bad = api.execute("u", json!({"action": "list", "cursor": "odd"})).await;
    assert_eq!(
        (bad.0, &bad.1["errors"][0]["loc"]),
        (422, &json!(["body", "cursor"]))
    );
    let foreign: RunId = seen.first().unwrap().trim_matches('"').parse().unwrap();
    assert_eq!(api.act("thief", "status", foreign).await.0, 404);
}

#[tokio::test]
async fn a_run_names_its_servers_in_a_list_of_names() {
    let api = Api::start().await;
    let asked = |servers: Value| json!({"action": "create", "prompt": "p", "mcp_servers": servers});
    api.done("u", asked(json!(["time", "issues-2"]))).await;
    for (servers, told) in [
        (json!("time"), "send a list of at most 16 names of servers"),
        (
            json!(["a__b"]),
            "a name has 1 to 32 letters, digits, - and single _",
        ),
    ] {
        let answer = api
            .post("u", "/agent/execute", &asked(servers))
            .send()
            .await
            .unwrap();
        let detail = format!("Invalid mcp_servers: {told}");
        assert_eq!(
            problem(answer).await,
            expected(400, "invalid_mcp_servers", &detail)
        );
    }
}
