//! Tickets and lines of thought.

use crate::errors::{expected, problem};
use crate::harness::{Api, SECRET, SOON, client, program, read};
use domain::RunId;
use serde_json::{Value, json};
use std::time::Duration;
use testkit::{Sse, eventually, free_port, jwt};

async fn ticket(api: &Api, run: RunId) -> String {
    let path = format!("/agent/run/{run}/ticket");
    let (status, answer) = read(api.post("u", &path, &Value::Null).send().await.unwrap()).await;
    assert_eq!(status, 200, "{answer}");
    let keys: Vec<&String> = answer.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["ticket", "run_id", "expires_in"]);
    assert_eq!(answer["run_id"], json!(run));
    answer["ticket"].as_str().unwrap().to_owned()
}

fn invalid() -> (u16, String, String) {
    expected(401, "invalid_ticket", "Invalid or expired ticket")
}

#[tokio::test]
async fn a_ticket_opens_the_streams_of_its_run_at_any_replica_and_repeatedly() {
    let api = Api::start().await;
    let run = api.create("u").await;
    let ticket = ticket(&api, run).await;
    assert!(ticket.starts_with("tk_"), "{ticket}");
    let ports = (free_port(), free_port());
    let other = program(&api.db_url, &api.redis.url(), ports, &[]).start();
    let other_base = format!("http://127.0.0.1:{}", ports.0);
    eventually(SOON, || async {
        let answer = client().get(format!("{other_base}/ready")).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    for base in [&api.base, &other_base, &api.base] {
        for path in ["logs/RUN/stream", "run/RUN/stream", "run/RUN/events"] {
            let path = path.replace("RUN", &run.to_string());
            let url = format!("{base}/agent/{path}?ticket={ticket}");
            let mut stream = Sse::connect(&url, None, None).await;
            stream.next(SOON).await.unwrap();
            assert_eq!(stream.next(SOON).await.unwrap().id, Some(1), "{url}");
        }
    }
    let told = api.process.stdout() + &api.process.stderr() + &other.stdout() + &other.stderr();
    assert!(!told.contains("tk_"), "a ticket is in the log");
}

#[tokio::test]
async fn a_ticket_of_another_run_a_changed_one_and_one_elsewhere_are_refused() {
    let api = Api::start().await;
    let (run, other) = (api.create("u").await, api.create("u").await);
    let good = ticket(&api, run).await;
    let flipped = if good.ends_with('A') { "B" } else { "A" };
    let forged = format!("{}{flipped}", &good[..good.len() - 1]);
    let token = jwt(SECRET, "u", json!({}));
    let foreign = ticket(&api, other).await;
    for bad in [&foreign, &forged, "", "tk_", "tk_x.y", &good[..20], &token] {
        for path in [format!("logs/{run}/stream"), format!("run/{run}/stream")] {
            let url = format!("{}/agent/{path}?ticket={bad}", api.base);
            let answer = client().get(url).send().await.unwrap();
            assert_eq!(problem(answer).await, invalid(), "{bad}");
        }
    }
    // Neither the page nor other routes take a ticket.
    for path in [
        format!("run/{run}/events?"),
        format!("logs?run_id={run}&mode=stream&"),
    ] {
        let url = format!("{}/agent/{path}ticket={good}", api.base);
        let answer = problem(client().get(url).send().await.unwrap()).await;
        assert_eq!(answer.1, "missing_authorization", "{path}");
    }
    let path = format!("/agent/run/{run}/ticket");
    let answer = api
        .post("somebody else", &path, &Value::Null)
        .send()
        .await
        .unwrap();
    assert_eq!(
        problem(answer).await,
        expected(404, "run_not_found", "Run not found")
    );
}

#[tokio::test]
async fn a_ticket_ends_after_its_time_and_cuts_no_open_stream() {
    let api = Api::start_with(&[("STREAM_TICKET_TTL_SECONDS", "1")]).await;
    let run = api.created_and_started("u").await;
    let url = format!("{}?ticket={}", api.named_url(run, ""), ticket(&api, run).await);
    let mut open = Sse::connect(&url, None, None).await;
    eventually(SOON, || async {
        let answer = client().get(&url).send().await.unwrap();
        answer.status() == 401 && problem(answer).await == invalid()
    })
    .await;
    let worker = api.worker().await;
    let epoch = worker.execute(run).await;
    worker.complete(run, epoch).await;
    while !open.next(SOON).await.expect("open until complete").is_complete() {}
}

async fn think(api: &Api, user: &str, run: RunId, query: &str) -> (u16, Value) {
    let path = format!("/agent/run/{run}/thinking{query}");
    read(api.post(user, &path, &Value::Null).send().await.unwrap()).await
}

#[tokio::test]
async fn a_line_of_thought_shows_on_open_named_streams_and_once_to_who_comes_within_30_s() {
    let api = Api::start().await;
    let run = api.created_and_started("u").await;
    let token = Api::token("u");
    let connect = async |url: String| {
        let mut stream = Sse::connect(&url, Some(&token), None).await;
        stream.next(SOON).await.unwrap();
        stream
    };
    let mut named = connect(api.named_url(run, "?tail=0")).await;
    let mut default = connect(api.stream_url(run, "?tail=0")).await;
    let line = json!({"content": "hm, möglich & gut"});
    let answer = think(&api, "u", run, "?content=hm,%20m%C3%B6glich%20%26+gut").await;
    assert_eq!(answer, (200, json!({"success": true})));
    let frame = named.next(SOON).await.unwrap();
    assert_eq!(
        (frame.id, frame.event.as_deref(), frame.json()),
        (None, Some("thinking"), line.clone())
    );
    let key = format!("run:{run}:thinking");
    assert_eq!(api.redis.cli(&["GET", &key]).trim(), "hm, möglich & gut");
    let ttl: i64 = api.redis.cli(&["TTL", &key]).trim().parse().unwrap();
    assert!((25..=30).contains(&ttl), "{ttl}");
    let mut late = connect(api.named_url(run, "?tail=0")).await;
    assert_eq!(late.next(SOON).await.unwrap().json(), line);
    let worker = api.worker().await;
    let epoch = worker.execute(run).await;
    worker.complete(run, epoch).await;
    let thoughts = |frames: Vec<testkit::Frame>| {
        let named = frames.iter().filter(|f| f.raw.contains("thinking"));
        named.count()
    };
    assert_eq!(thoughts(late.collect_until_complete(SOON).await), 0, "once");
    assert_eq!(thoughts(named.collect_until_complete(SOON).await), 0, "once");
    let first = default.next(Duration::from_secs(5)).await.unwrap();
    assert_eq!(first.json()["type"], "log", "default streams do not show it");
    assert_eq!(thoughts(default.collect_until_complete(SOON).await), 0);
}

#[tokio::test]
async fn a_line_of_thought_is_refused_by_shape_owner_and_without_redis() {
    let mut api = Api::start().await;
    let run = api.create("u").await;
    let (status, answer) = think(&api, "u", run, "").await;
    assert_eq!(status, 422);
    assert_eq!(
        answer["errors"],
        json!([{"loc": ["query", "content"], "msg": "Field required", "type": "missing"}])
    );
    let longest = format!("?content={}", "x".repeat(8192));
    assert_eq!(think(&api, "u", run, &longest).await.0, 200);
    assert_eq!(think(&api, "u", run, &format!("{longest}x")).await.0, 422);
    assert_eq!(think(&api, "u", run, "?content=a%00b").await.0, 422);
    let (status, answer) = think(&api, "somebody else", run, "?content=x").await;
    assert_eq!((status, &answer["code"]), (404, &json!("run_not_found")));
    api.redis.stop();
    let (status, answer) = think(&api, "u", run, "?content=x").await;
    assert_eq!((status, &answer["code"]), (503, &json!("unavailable")));
}
