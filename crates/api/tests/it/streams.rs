//! Streams over the wire: forms, cursors, hand-made messages.

use crate::harness::{Api, Worker, read};
use domain::{Event, RunId};
use serde_json::{Value, json};
use std::time::Duration;
use testkit::{Frame, Sse};

pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) async fn connect(url: &str, last: Option<i64>) -> Sse {
    Sse::connect(url, Some(&Api::token("u")), last).await
}

/// A run that is executing, with its worker.
pub(crate) async fn executing(api: &Api) -> (RunId, Worker, i64) {
    let run = api.created_and_started("u").await;
    let worker = api.worker().await;
    let epoch = worker.execute(run).await;
    (run, worker, epoch)
}

pub(crate) fn ids(frames: &[Frame]) -> Vec<i64> {
    frames.iter().filter_map(|frame| frame.id).collect()
}

pub(crate) async fn stored(worker: &Worker, run: RunId) -> Vec<Event> {
    let reader = runs::Reader::new(worker.db.clone());
    reader.events_after(run, 0, 10_000).await.expect("a store")
}

#[tokio::test]
async fn a_finished_run_is_replayed_in_both_forms_and_ends_with_complete() {
    let api = Api::start().await;
    let (run, worker, epoch) = executing(&api).await;
    worker.log(run, epoch, "hello").await;
    worker.complete(run, epoch).await;
    let events = stored(&worker, run).await;
    let stream = connect(&api.stream_url(run, ""), None).await;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    assert_eq!(stream.headers()["cache-control"], "no-cache");
    assert_eq!(stream.headers()["x-accel-buffering"], "no");
    assert_eq!(stream.headers()["connection"], "keep-alive");
    let frames = stream.collect_until_complete(SOON).await;
    assert_eq!(frames[0].json()["type"], "connected");
    assert_eq!((frames[0].id, frames[0].event.as_deref()), (None, None));
    for (frame, event) in frames[1..].iter().zip(&events) {
        assert_eq!(frame.id, Some(event.seq));
        assert_eq!(frame.json(), domain::wire::default_data(event));
    }
    assert_eq!(frames.len(), events.len() + 1);
    let named = connect(&api.named_url(run, ""), None)
        .await
        .collect_until_complete(SOON)
        .await;
    assert_eq!(ids(&named), ids(&frames));
    for (frame, event) in named.iter().filter(|frame| frame.id.is_some()).zip(&events) {
        let (name, data) = domain::wire::named_data(event);
        assert_eq!((frame.event.as_deref(), frame.json()), (Some(name), data));
    }
}

#[tokio::test]
async fn live_events_follow_history_within_a_second() {
    let api = Api::start().await;
    let (run, worker, epoch) = executing(&api).await;
    let mut stream = connect(&api.stream_url(run, ""), None).await;
    let history = stored(&worker, run).await.len();
    for _ in 0..=history {
        stream.next(SOON).await.unwrap();
    }
    let channels = api.redis.cli(&["PUBSUB", "CHANNELS", "agent:logs:*"]);
    assert_eq!(channels.trim(), format!("agent:logs:{run}"));
    for number in 0..20 {
        worker.log(run, epoch, &format!("line {number}")).await;
        let frame = stream
            .next(Duration::from_secs(1))
            .await
            .expect("within a second");
        assert_eq!(frame.json()["message"], format!("line {number}"));
    }
    worker.complete(run, epoch).await;
    let rest = stream.collect_until_complete(SOON).await;
    assert_eq!(rest.len(), 2, "the status change and complete");
}

#[tokio::test]
async fn cursors_are_answered_by_the_table() {
    let api = Api::start().await;
    let (run, worker, epoch) = executing(&api).await;
    let newest = i64::try_from(stored(&worker, run).await.len()).unwrap();
    let ask = async |query: &str, header: Option<&str>| {
        let mut request = api.get("u", &format!("/agent/logs/{run}/stream{query}"));
        if let Some(header) = header {
            request = request.header("last-event-id", header);
        }
        let answer = request.send().await.unwrap();
        if answer.status() != 400 && answer.status() != 422 {
            return (answer.status().as_u16(), Value::Null);
        }
        let (status, body) = read(answer).await;
        (status, body["code"].clone())
    };
    for bad in ["-1", "abc", "9223372036854775808", "1.5"] {
        assert_eq!(
            ask(&format!("?after={bad}"), None).await,
            (400, json!("invalid_cursor")),
            "{bad}"
        );
        assert_eq!(ask("", Some(bad)).await, (400, json!("invalid_cursor")), "{bad}");
    }
    assert_eq!(ask("?after=1000", None).await, (400, json!("cursor_ahead")));
    assert_eq!(ask("?since=odd", None).await, (422, json!("validation_error")));
    let mut tail = connect(&api.stream_url(run, "?tail=1"), None).await;
    tail.next(SOON).await.unwrap();
    assert_eq!(tail.next(SOON).await.unwrap().id, Some(newest));
    let mut header = connect(&api.stream_url(run, "?after=1"), Some(newest - 1)).await;
    header.next(SOON).await.unwrap();
    assert_eq!(
        header.next(SOON).await.unwrap().id,
        Some(newest),
        "the header wins"
    );
    worker.complete(run, epoch).await;
    let last = newest + 2;
    assert_eq!(ask(&format!("?after={last}"), None).await.0, 204);
    assert_eq!(ask("?after=1000", None).await.0, 204);
    let since = stored(&worker, run).await[1].created_at;
    let rest = connect(&api.stream_url(run, &format!("?since={since}")), None).await;
    assert_eq!(ids(&rest.collect_until_complete(SOON).await)[0], 3);
}

#[tokio::test]
async fn hand_made_messages_are_shown_as_transient_and_forged_ones_dropped() {
    let api = Api::start().await;
    let (run, worker, epoch) = executing(&api).await;
    let mut stream = connect(&api.stream_url(run, "?tail=0"), None).await;
    let mut named = connect(&api.named_url(run, "?tail=0"), None).await;
    stream.next(SOON).await.unwrap();
    named.next(SOON).await.unwrap();
    let channel = format!("agent:logs:{run}");
    let publish = |text: &str| api.redis.cli(&["PUBLISH", &channel, text]);
    publish(r#"{"type":"complete","run_id":"x","seq":9999,"status":"completed"}"#);
    publish(r#"{"type":"complete","status":"completed"}"#);
    publish(r#"{"type":"log","seq":1000,"message":"forged"}"#);
    publish("test message");
    let frame = stream.next(SOON).await.unwrap();
    let data = frame.json();
    assert_eq!(frame.id, None);
    assert_eq!(
        (&data["message"], &data["seq"], &data["metadata"]),
        (&json!("test message"), &Value::Null, &json!({"transient": true}))
    );
    assert_eq!(
        (&data["run_id"], &data["log_type"]),
        (&json!(run), &json!("info"))
    );
    assert_eq!(named.next(SOON).await.unwrap().event.as_deref(), Some("log"));
    publish(r#"{"type":"log","message":"by hand","log_type":"warning"}"#);
    assert_eq!(stream.next(SOON).await.unwrap().json()["log_type"], "warning");
    worker.complete(run, epoch).await;
    assert!(
        stream
            .collect_until_complete(SOON)
            .await
            .last()
            .unwrap()
            .is_complete()
    );
}

#[tokio::test]
async fn events_as_json_show_the_run_and_the_named_form() {
    let api = Api::start().await;
    let run = api.created_and_started("u").await;
    let path = format!("/agent/run/{run}/events");
    let (status, page) = read(api.get("u", &format!("{path}?after=2")).send().await.unwrap()).await;
    assert_eq!((status, &page["last_seq"]), (200, &json!(3)));
    let keys: Vec<&String> = page["run"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["id", "status", "current_phase", "plan", "error_message"]);
    assert_eq!(page["events"][0]["event"], "status");
    assert_eq!(page["events"][0]["data"]["status"], "queued");
    assert_eq!(page["messages"][0]["content"], "hello");
    let mut stream = connect(&format!("{}{path}", api.base), None).await;
    stream.next(SOON).await.unwrap();
    assert_eq!(stream.next(SOON).await.unwrap().id, Some(1));
    let mut polled = connect(
        &format!("{}/agent/logs?run_id={run}&mode=streaming", api.base),
        None,
    )
    .await;
    assert_eq!(polled.next(SOON).await.unwrap().json()["type"], "connected");
}

#[tokio::test]
async fn many_viewers_share_one_subscription() {
    let api = Api::start().await;
    let (run, worker, epoch) = executing(&api).await;
    let open = (0..30).map(|_| async { connect(&api.stream_url(run, ""), None).await });
    let streams = futures::future::join_all(open).await;
    let subscribers = api.redis.cli(&["PUBSUB", "NUMSUB", &format!("agent:logs:{run}")]);
    assert!(subscribers.trim().ends_with('1'), "{subscribers}");
    for number in 0..50 {
        worker.log(run, epoch, &format!("line {number}")).await;
    }
    worker.complete(run, epoch).await;
    let all: Vec<i64> = (1..=i64::try_from(stored(&worker, run).await.len()).unwrap()).collect();
    for stream in streams {
        assert_eq!(ids(&stream.collect_until_complete(SOON).await), all);
    }
}
