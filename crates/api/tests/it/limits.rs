//! What one client may take from the others: requests, bodies, headers, connections, streams.

use crate::errors::{expected, problem};
use crate::harness::{Api, client, read};
use futures::future::join_all;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use testkit::Sse;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_user_over_the_rate_gets_429_with_a_time_and_others_are_served() {
    let limits = [("API_RATE_LIMIT_PER_SECOND", "1"), ("API_RATE_LIMIT_BURST", "3")];
    let api = Api::start_with(&limits).await;
    let ask = async |user: &str| api.execute(user, json!({"action": "list"})).await;
    let mut refused = None;
    for _ in 0..20 {
        let sent = api
            .post("greedy", "/agent/execute", &json!({"action": "list"}))
            .send();
        let answer = sent.await.unwrap();
        if answer.status() == 429 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("twenty at once are too many");
    let wait: u64 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    assert_eq!(
        problem(refused).await,
        expected(429, "rate_limited", "Too many requests")
    );
    assert_eq!(ask("modest").await.0, 200);
    let health = client().get(format!("{}/health", api.base)).send().await.unwrap();
    assert_eq!(health.status(), 200);
}

#[tokio::test]
async fn a_user_with_too_many_streams_gets_429_and_a_full_process_503() {
    let limits = [("STREAM_MAX_PER_USER", "2"), ("STREAM_MAX_CONNECTIONS", "3")];
    let api = Api::start_with(&limits).await;
    let (first, second) = (api.create("a").await, api.create("b").await);
    let open = async |user: &str, run| {
        let stream = Sse::connect(&api.stream_url(run, ""), Some(&Api::token(user)), None).await;
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        stream
    };
    let one = open("a", first).await;
    let _two = open("a", first).await;
    let path = format!("/agent/run/{first}/stream");
    let refused = api.get("a", &path).send().await.unwrap();
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(
        problem(refused).await,
        expected(429, "rate_limited", "Too many open streams")
    );
    let _three = open("b", second).await;
    let path = format!("/agent/run/{second}/stream");
    let full = api.get("b", &path).send().await.unwrap();
    assert_eq!(full.headers()["retry-after"], "5");
    assert_eq!(problem(full).await.1, "unavailable");
    drop(one);
    testkit::eventually(Duration::from_secs(10), || async {
        let answer = api.get("b", &path).send().await.unwrap();
        answer.status() == 200
    })
    .await;
}

#[tokio::test]
async fn who_polls_gets_304_until_something_changes() {
    let api = Api::start().await;
    let run = api.create("u").await;
    let paths = [
        format!("/agent/run/{run}"),
        format!("/agent/run/{run}/events"),
        format!("/agent/logs?run_id={run}"),
    ];
    let mut tags = vec![];
    for path in &paths {
        let answer = api.get("u", path).send().await.unwrap();
        let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
        assert!(tag.starts_with("W/\""), "{tag}");
        let again = api
            .get("u", path)
            .header("if-none-match", &tag)
            .send()
            .await
            .unwrap();
        assert_eq!(
            (again.status().as_u16(), &again.headers()["etag"]),
            (304, &tag.parse().unwrap())
        );
        assert!(again.bytes().await.unwrap().is_empty());
        tags.push(tag);
    }
    api.act("u", "start", run).await;
    for (path, tag) in paths.iter().zip(&tags) {
        let answer = api
            .get("u", path)
            .header("if-none-match", tag)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{path}");
    }
    let foreign = api
        .get("thief", &paths[0])
        .header("if-none-match", &tags[0])
        .send()
        .await;
    assert_eq!(foreign.unwrap().status(), 404);
}

#[tokio::test]
async fn a_body_that_announces_too_much_is_refused_before_it_is_sent() {
    let api = Api::start().await;
    let mut connection = TcpStream::connect(api.base.trim_start_matches("http://"))
        .await
        .unwrap();
    let head = format!(
        "POST /agent/execute HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 50000000\r\n\r\n",
        Api::token("u")
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    let mut line = [0; 12];
    // Not a byte of the body was sent.
    connection.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"HTTP/1.1 413");
}

#[tokio::test]
async fn json_that_is_too_deep_is_no_json_and_the_longest_thought_fits_into_a_query() {
    let api = Api::start().await;
    let deep = format!("{{\"action\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    let sent = api
        .client
        .post(format!("{}/agent/execute", api.base))
        .bearer_auth(Api::token("u"))
        .body(deep);
    let (status, answer) = read(sent.send().await.unwrap()).await;
    assert_eq!(
        (status, &answer["errors"][0]["type"]),
        (422, &json!("json_invalid"))
    );
    let run = api.create("u").await;
    let content = "%C3%A9".repeat(4096);
    let path = format!("/agent/run/{run}/thinking?content={content}");
    let answer = api.post("u", &path, &Value::Null).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// Half-open requests: `SLOW_SOCKETS` of them, 300 unless told otherwise.
#[tokio::test]
async fn half_sent_headers_are_cut_and_hold_nobody_up() {
    let sockets: usize = std::env::var("SLOW_SOCKETS").map_or(300, |text| text.parse().expect("a number"));
    let api = Api::start().await;
    let address = api.base.trim_start_matches("http://").to_owned();
    let half = join_all((0..sockets).map(|_| async {
        let mut socket = TcpStream::connect(&address).await.expect("accepted");
        let sent = socket
            .write_all(b"POST /agent/execute HTTP/1.1\r\nhost: x\r\nauthor")
            .await;
        sent.map(|()| socket)
    }))
    .await;
    let begun = Instant::now();
    for _ in 0..50 {
        assert_eq!(api.execute("u", json!({"action": "list"})).await.0, 200);
    }
    let served = begun.elapsed();
    assert!(
        served < Duration::from_secs(9),
        "served while the sockets were open: {served:?}"
    );
    for socket in half {
        let mut rest = vec![];
        let read = socket.unwrap().read_to_end(&mut rest).await;
        // Closed, politely or not.
        assert!(read.is_err() || rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"));
    }
}
