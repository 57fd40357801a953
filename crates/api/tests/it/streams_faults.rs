//! Streams while things break: cut connections, Redis away, several replicas.

use crate::harness::{Api, program};
use crate::streams::{SOON, connect, executing, ids, stored};
use domain::change::Change;
use domain::{NewEvent, RunId};
use std::time::Duration;
use testkit::{FaultProxy, Frame, eventually, free_port};

/// Follows a run to its end through connections that break, resuming by id.
async fn follow(url: String, cuts: usize) -> Vec<Frame> {
    let mut seen: Vec<Frame> = vec![];
    let mut connections = 0;
    loop {
        let last = seen.last().and_then(|frame: &Frame| frame.id);
        let mut stream = connect(&url, last).await;
        connections += 1;
        let mut taken = 0;
        while let Some(frame) = stream.next(SOON).await {
            let over = frame.is_complete();
            if frame.id.is_some() {
                seen.push(frame);
                taken += 1;
            }
            if over {
                assert!(connections > cuts, "cut {} times only", connections - 1);
                return seen;
            }
            if connections <= cuts && taken == 7 {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_stream_cut_twenty_times_and_resumed_is_byte_equal() {
    let api = Api::start().await;
    let (run, worker, epoch) = executing(&api).await;
    let url = api.stream_url(run, "");
    let follower = tokio::spawn(follow(url.clone(), 20));
    for number in 0..200 {
        worker
            .log(run, epoch, &format!("line {number}: ü\r\n\"quoted\""))
            .await;
    }
    worker.complete(run, epoch).await;
    let pieced = follower.await.unwrap();
    let whole = connect(&url, None).await.collect_until_complete(SOON).await;
    let raw = |frames: &[Frame]| {
        frames
            .iter()
            .filter(|f| f.id.is_some())
            .map(|f| f.raw.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(raw(&pieced), raw(&whole));
}

#[tokio::test]
async fn with_redis_killed_events_still_arrive_within_three_seconds() {
    let mut api = Api::start().await;
    let (run, worker, epoch) = executing(&api).await;
    let mut stream = connect(&api.stream_url(run, "?tail=0"), None).await;
    stream.next(SOON).await.unwrap();
    api.redis.kill();
    for number in 0..3 {
        worker.log(run, epoch, &format!("line {number}")).await;
        let frame = stream
            .next(Duration::from_secs(3))
            .await
            .expect("within three seconds");
        assert_eq!(frame.json()["message"], format!("line {number}"));
    }
    let mut fresh = connect(&api.stream_url(run, ""), None).await;
    assert_eq!(fresh.next(SOON).await.unwrap().json()["type"], "connected");
    api.redis.restart().await;
    worker.log(run, epoch, "back").await;
    worker.complete(run, epoch).await;
    assert_eq!(stream.collect_until_complete(SOON).await.len(), 3);
    let all: Vec<i64> = (1..=i64::try_from(stored(&worker, run).await.len()).unwrap()).collect();
    assert_eq!(ids(&fresh.collect_until_complete(SOON).await), all);
}

#[tokio::test]
async fn messages_lost_on_the_bus_are_found_within_a_second_or_two() {
    let api = Api::start().await;
    let (run, worker, epoch) = executing(&api).await;
    let mut stream = connect(&api.stream_url(run, "?tail=0"), None).await;
    stream.next(SOON).await.unwrap();
    // Committed without a publish, as by a worker that dies in between.
    let line = vec![Change::Log(NewEvent::info("unheard"))];
    worker.orchestration.progress(run, epoch, line).await.unwrap();
    let frame = stream
        .next(Duration::from_secs(2))
        .await
        .expect("found by the reconciler");
    assert_eq!(frame.json()["message"], "unheard");
}

#[tokio::test]
async fn a_second_replica_goes_on_where_the_first_was_cut() {
    let api = Api::start().await;
    let ports = (free_port(), free_port());
    let second = program(&api.db_url, &api.redis.url(), ports, &[]).start();
    let base = format!("http://127.0.0.1:{}", ports.0);
    eventually(SOON, || async {
        let answer = api.client.get(format!("{base}/ready")).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    let (run, worker, epoch) = executing(&api).await;
    let elsewhere = |run: RunId| format!("{base}/agent/logs/{run}/stream");
    let mut first = connect(&api.stream_url(run, ""), None).await;
    first.next(SOON).await.unwrap();
    assert_eq!(first.next(SOON).await.unwrap().id, Some(1));
    drop(first);
    let moved = connect(&elsewhere(run), Some(1)).await;
    for number in 0..20 {
        worker.log(run, epoch, &format!("line {number}")).await;
    }
    worker.complete(run, epoch).await;
    let last = i64::try_from(stored(&worker, run).await.len()).unwrap();
    let all: Vec<i64> = (2..=last).collect();
    assert_eq!(ids(&moved.collect_until_complete(SOON).await), all);
    drop(second);
}

#[tokio::test]
async fn a_stalled_redis_delays_no_answer_and_loses_no_event() {
    let db_url = testkit::Postgres::shared().await.migrated_database().await;
    let redis = testkit::Redis::start().await;
    let proxy = FaultProxy::start(redis.port()).await;
    let through = format!("redis://127.0.0.1:{}", proxy.port());
    let api = Api::on(db_url, redis, &[("REDIS_URL", through.as_str())]).await;
    let (run, worker, epoch) = executing(&api).await;
    let mut stream = connect(&api.stream_url(run, "?tail=0"), None).await;
    stream.next(SOON).await.unwrap();
    proxy.stall();
    let begun = std::time::Instant::now();
    api.create("u").await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    worker.log(run, epoch, "unheard").await;
    let frame = stream
        .next(Duration::from_secs(3))
        .await
        .expect("within three seconds");
    assert_eq!(frame.json()["message"], "unheard");
}
