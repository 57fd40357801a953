//! Streams that are cut, resumed, late, or asked for nonsense.

use crate::support::{LONG, SOON, Setup, System, ids, message, script, sleep_ms};
use reqwest::StatusCode;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use testkit::{FaultProxy, Frame, Sse, eventually};

/// Bytes a connection may carry before it is cut: enough for the headers and a few frames.
const CUT_EVERY: u64 = 2_000;
const CUTS: u64 = 20;

/// A script of many events, slow enough to be watched live. In a file, so that the prompt's own event is short.
fn many_events(path: &Path) {
    let items: Vec<Value> = (0..25)
        .flat_map(|number| {
            [
                message(&format!("message number {number}: {}", "x".repeat(100))),
                sleep_ms(40),
            ]
        })
        .collect();
    std::fs::write(path, script(&items)).unwrap();
}

/// All persisted frames, collected over connections that are cut again and again.
async fn collect_over_cuts(url: &str, token: &str) -> Vec<Frame> {
    let deadline = Instant::now() + LONG;
    let mut kept: Vec<Frame> = Vec::new();
    loop {
        assert!(
            Instant::now() < deadline,
            "no end after {LONG:?}; {} frames",
            kept.len()
        );
        let last = kept.last().and_then(|frame| frame.id);
        let mut stream = match Sse::try_connect(url, Some(token), last).await {
            Ok(stream) => stream,
            Err(answer) => {
                assert_eq!(answer.status(), StatusCode::NO_CONTENT);
                return kept;
            }
        };
        while let Some(frame) = stream.next(LONG).await {
            if frame.id.is_some() {
                kept.push(frame);
            }
        }
    }
}

async fn a_cut_stream_equals_an_uncut_one(named: bool) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("script.json");
    many_events(&file);
    let setup = Setup::workers(1).worker_env("LLM_SCRIPT_FILE", file.to_str().unwrap());
    let system = setup.start().await;
    let proxy = FaultProxy::start(system.port).await;
    proxy.cut_every(CUT_EVERY);
    let run = system.begin("as the file says").await;
    let path = if named {
        format!("/agent/run/{run}/stream")
    } else {
        format!("/agent/logs/{run}/stream")
    };
    let cut_url = format!("http://127.0.0.1:{}{path}", proxy.port());
    let url = format!("{}{path}", system.base);
    let (uncut, cut) = tokio::join!(system.watch(&url), collect_over_cuts(&cut_url, &system.token));
    assert!(proxy.cuts() >= CUTS, "only {} cuts", proxy.cuts());
    let raw = |frames: &[Frame]| -> Vec<String> {
        let kept = frames.iter().filter(|frame| frame.id.is_some());
        kept.map(|frame| frame.raw.clone()).collect()
    };
    assert_eq!(raw(&cut), raw(&uncut));
    let last = *ids(&uncut).last().unwrap();
    assert_eq!(ids(&uncut), (1..=last).collect::<Vec<_>>());
    assert!(uncut.last().unwrap().is_complete());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_stream_cut_twenty_times_and_resumed_equals_an_uncut_one() {
    a_cut_stream_equals_an_uncut_one(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_stream_cut_twenty_times_and_resumed_equals_an_uncut_one() {
    a_cut_stream_equals_an_uncut_one(true).await;
}

async fn finished_run(system: &System) -> String {
    let run = system.begin(&script(&[message("one")])).await;
    system.wait_status(&run, "completed", LONG).await;
    run
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_opened_after_the_end_replays_everything_and_ends() {
    let system = Setup::workers(1).start().await;
    let run = finished_run(&system).await;
    for url in [system.stream_url(&run), system.named_url(&run)] {
        let frames = system.watch(&url).await;
        let last = *ids(&frames).last().unwrap();
        assert_eq!(ids(&frames), (1..=last).collect::<Vec<_>>());
        let middle = Sse::connect(&url, Some(&system.token), Some(3)).await;
        let rest = middle.collect_until_complete(SOON).await;
        assert_eq!(ids(&rest), (4..=last).collect::<Vec<_>>());
        for position in [last, last + 1, last + 1000] {
            let answer = Sse::try_connect(&url, Some(&system.token), Some(position)).await;
            assert_eq!(answer.unwrap_err().status(), StatusCode::NO_CONTENT);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_that_make_no_sense_are_refused_and_never_replay_from_the_start() {
    let system = Setup::workers(0).start().await;
    let run = system.create("x").await;
    for position in ["-1", "abc", "9223372036854775808", "1.5"] {
        refused(&system, &run, position, "invalid_cursor").await;
    }
    refused(&system, &run, "3", "cursor_ahead").await;
    let newest = Sse::connect(&system.stream_url(&run), Some(&system.token), Some(2)).await;
    drop(newest);
    let url = format!("{}?since=yesterday", system.stream_url(&run));
    let answer = system
        .client
        .get(url)
        .bearer_auth(&system.token)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
    // Last-Event-ID wins over ?after=.
    let url = format!("{}?after=0", system.stream_url(&run));
    let mut stream = Sse::connect(&url, Some(&system.token), Some(1)).await;
    assert_eq!(stream.next(SOON).await.unwrap().id, None);
    assert_eq!(stream.next(SOON).await.unwrap().id, Some(2));
}

async fn refused(system: &System, run: &str, position: &str, code: &str) {
    for url in [system.stream_url(run), system.named_url(run)] {
        let by_query = system.client.get(format!("{url}?after={position}"));
        let by_header = system.client.get(&url).header("Last-Event-ID", position);
        for request in [by_query, by_header] {
            let answer = request.bearer_auth(&system.token).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{position}");
            let problem: Value = answer.json().await.unwrap();
            assert_eq!(problem["code"], code, "{position}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_unfinished_run_has_its_channel_and_hand_made_lines_reach_the_viewer() {
    let system = Setup::workers(0).start().await;
    let run = system.create("x").await;
    let mut stream = Sse::connect(&system.stream_url(&run), Some(&system.token), Some(2)).await;
    assert_eq!(stream.next(SOON).await.unwrap().json()["type"], "connected");
    let channel = format!("agent:logs:{run}");
    let listed = || async { system.redis.cli(&["PUBSUB", "CHANNELS", "agent:logs:*"]) == channel };
    eventually(SOON, listed).await;
    // A frame that claims what the database does not have never ends a stream.
    let lie = format!(r#"{{"type":"complete","run_id":"{run}","seq":3,"status":"completed","message":"x"}}"#);
    system.redis.cli(&["PUBLISH", &channel, &lie]);
    system.redis.cli(&["PUBLISH", &channel, "test message"]);
    let frame = stream.next(SOON).await.unwrap();
    assert_eq!(
        (frame.id, frame.json()["message"].as_str()),
        (None, Some("test message"))
    );
    let stopped = system.act("stop", &run).await;
    assert_eq!(
        (&stopped["status"], &stopped["message"]),
        (&"cancelled".into(), &"Agent execution stopped".into())
    );
    let rest = stream.collect_until_complete(SOON).await;
    assert_eq!(ids(&rest), [3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_are_told_when_the_api_shuts_down() {
    let mut system = Setup::workers(0).start().await;
    let run = system.create("x").await;
    let mut stream = Sse::connect(&system.stream_url(&run), Some(&system.token), Some(2)).await;
    assert_eq!(stream.next(SOON).await.unwrap().json()["type"], "connected");
    system.api.term();
    let frame = stream.next(SOON).await.unwrap();
    assert_eq!(
        (frame.id, frame.json()["type"].as_str()),
        (None, Some("disconnected"))
    );
    assert_eq!(stream.next(SOON).await, None);
    assert_eq!(system.api.wait(Duration::from_secs(30)).await.code(), Some(0));
}
