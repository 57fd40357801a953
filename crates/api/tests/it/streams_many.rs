//! Streams in numbers: many viewers, many cuts, many reconnects, two processes.

use crate::harness::{Api, Worker, client, program};
use crate::streams::{executing, stored};
use domain::RunId;
use domain::change::Change;
use futures::future::join_all;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use testkit::{FaultProxy, Follower, Process, eventually, free_port};

const LONG: Duration = Duration::from_secs(30);

fn viewer_of(run: RunId, ports: &[u16]) -> Follower {
    Follower::new(format!("/agent/logs/{run}/stream"), Api::token("u"), ports)
}

/// A second process over the same stores, and its port.
async fn second(api: &Api, redis_url: &str) -> (Process, u16) {
    for _ in 0..3 {
        let ports = (free_port(), free_port());
        let process = program(&api.db_url, redis_url, ports, &[]).start();
        let url = format!("http://127.0.0.1:{}/ready", ports.0);
        let ready = testkit::eventually_some(LONG, || async {
            let answer = api.client.get(&url).send().await;
            answer.is_ok_and(|answer| answer.status() == 200).then_some(())
        });
        // Tests of another program may take a port that was free a moment ago.
        if ready.await.is_some() {
            return (process, ports.0);
        }
    }
    panic!("no second process");
}

fn port_of(api: &Api) -> u16 {
    api.base.rsplit(':').next().unwrap().parse().unwrap()
}

/// Writes lines at this pace until told to stop, then completes the run; how many events it has.
async fn write(worker: Worker, (run, epoch): (RunId, i64), every: Duration, stop: Arc<AtomicBool>) -> i64 {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        worker.log(run, epoch, &format!("line {number}")).await;
        number += 1;
        tokio::time::sleep(every).await;
    }
    worker.complete(run, epoch).await;
    stored(&worker, run).await.len() as i64
}

async fn metric(api: &Api, name: &str) -> f64 {
    let answer = api
        .client
        .get(format!("{}/metrics", api.base))
        .send()
        .await
        .unwrap();
    let text = answer.text().await.unwrap();
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_cut_a_thousand_times_gets_every_event_once() {
    let api = Api::start().await;
    let (run, worker, epoch) = executing(&api).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = write(worker, (run, epoch), Duration::from_millis(10), stop.clone());
    let writing = tokio::spawn(writing);
    let mut follower = viewer_of(run, &[port_of(&api)]);
    for _ in 0..1_000 {
        let mut stream = follower.open().await.expect("a stream");
        // The opening, and whatever is there with it.
        follower.read(&mut stream).await;
    }
    stop.store(true, Ordering::SeqCst);
    let count = writing.await.unwrap();
    assert_eq!(follower.follow(LONG * 2).await.seen, count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_viewers_come_and_go_and_leave_nothing_behind() {
    let api = Api::start().await;
    let mut runs = vec![];
    for _ in 0..5 {
        runs.push(api.create("u").await);
    }
    let (next, port) = (AtomicUsize::new(0), port_of(&api));
    let visitor = async || {
        while next.fetch_add(1, Ordering::Relaxed) < 1_000 {
            let run = runs[next.load(Ordering::Relaxed) % runs.len()];
            let mut follower = viewer_of(run, &[port]);
            let mut stream = follower.open().await.expect("a stream");
            follower.read(&mut stream).await;
        }
    };
    join_all((0..20).map(|_| visitor())).await;
    for name in ["stream_subscribers", "stream_runs_watched", "stream_ring_bytes"] {
        eventually(LONG, async || metric(&api, name).await <= 0.0).await;
    }
    assert!(metric(&api, "stream_closed_total{reason=\"gone\"}").await >= 1_000.0);
    let channels = || api.redis.cli(&["PUBSUB", "CHANNELS", "agent:logs:*"]);
    eventually(LONG, async || channels().trim().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_move_to_another_process_at_shutdown_and_lose_nothing() {
    let mut api = Api::start().await;
    let (_second, other) = second(&api, &api.redis.url()).await;
    let (run, worker, epoch) = executing(&api).await;
    let ports = [port_of(&api), other];
    let opened = Arc::new(AtomicUsize::new(0));
    let follow = |_| {
        let (mut follower, opened) = (viewer_of(run, &ports), opened.clone());
        tokio::spawn(async move {
            let mut stream = follower.open().await.expect("a stream");
            follower.read(&mut stream).await;
            opened.fetch_add(1, Ordering::SeqCst);
            while follower.read(&mut stream).await {}
            let farewell = follower.farewell.expect("told to leave");
            follower.ports.rotate_left(1);
            (farewell, follower.follow(LONG * 2).await)
        })
    };
    let followers: Vec<_> = (0..1_000).map(follow).collect();
    eventually(LONG, async || opened.load(Ordering::SeqCst) == 1_000).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(write(
        worker,
        (run, epoch),
        Duration::from_millis(100),
        stop.clone(),
    ));
    let begun = Instant::now();
    api.process.term();
    let ready = format!("{}/ready", api.base);
    let answer = client().get(&ready).send().await.unwrap();
    assert_eq!(answer.status(), 503, "at once, and still answered");
    assert!(answer.text().await.unwrap().contains("shutting_down"));
    assert_eq!(api.process.wait(LONG).await.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    stop.store(true, Ordering::SeqCst);
    let count = writing.await.unwrap();
    let ended = join_all(followers).await;
    let farewells: Vec<Instant> = ended.iter().map(|ended| ended.as_ref().unwrap().0).collect();
    let spread = *farewells.iter().max().unwrap() - *farewells.iter().min().unwrap();
    assert!(spread > Duration::from_secs(2), "not all at once: {spread:?}");
    for ended in ended {
        assert_eq!(ended.unwrap().1.seen, count);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_cut_under_load_on_two_processes_delays_events_and_loses_none() {
    let db_url = testkit::Postgres::shared().await.migrated_database().await;
    let redis = testkit::Redis::start().await;
    let proxy = FaultProxy::start(redis.port()).await;
    let through = format!("redis://127.0.0.1:{}", proxy.port());
    let api = Api::on(db_url, redis, &[("REDIS_URL", through.as_str())]).await;
    let (_second, other) = second(&api, &through).await;
    let (run, worker, epoch) = executing(&api).await;
    let followers: Vec<_> = (0..20)
        .map(|number| {
            let port = [port_of(&api), other][number % 2];
            tokio::spawn(viewer_of(run, &[port]).follow(LONG * 2))
        })
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn(write(
        worker,
        (run, epoch),
        Duration::from_millis(20),
        stop.clone(),
    ));
    tokio::time::sleep(Duration::from_millis(500)).await;
    proxy.sever();
    tokio::time::sleep(Duration::from_secs(3)).await;
    proxy.restore();
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::SeqCst);
    let count = writing.await.unwrap();
    for follower in followers {
        let follower = follower.await.unwrap();
        assert_eq!(follower.seen, count);
        assert!(
            follower.longest_gap < Duration::from_millis(2_500),
            "{:?}",
            follower.longest_gap
        );
    }
}

#[tokio::test]
async fn without_redis_from_the_start_events_arrive_within_three_seconds() {
    let db_url = testkit::Postgres::shared().await.migrated_database().await;
    let api = Api::on(db_url, testkit::Redis::start().await, &[]).await;
    let (run, worker, epoch) = executing(&api).await;
    let nowhere = format!("redis://127.0.0.1:{}", free_port());
    let ports = (free_port(), free_port());
    let _lonely = program(&api.db_url, &nowhere, ports, &[]).start();
    let mut follower = viewer_of(run, &[ports.0]);
    let ready = format!("http://127.0.0.1:{}/healthz", ports.0);
    eventually(LONG, async || api.client.get(&ready).send().await.is_ok()).await;
    let mut stream = follower.open().await.expect("a stream");
    let newest = stored(&worker, run).await.len() as i64;
    while follower.seen < newest {
        assert!(follower.read(&mut stream).await);
    }
    for number in 0..3 {
        let line = vec![Change::Log(domain::NewEvent::info(format!("line {number}")))];
        worker.progress(run, epoch, line).await;
        let begun = Instant::now();
        while follower.seen < newest + 1 + number {
            assert!(follower.read(&mut stream).await);
        }
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_viewer_that_reads_nothing_is_cut_and_goes_on_later_without_loss() {
    let api = Api::start_with(&[("API_WRITE_STALL_SECONDS", "1")]).await;
    let (run, worker, epoch) = executing(&api).await;
    let (mut deaf, mut other) = (viewer_of(run, &[port_of(&api)]), viewer_of(run, &[port_of(&api)]));
    let mut unread = deaf.open().await.expect("a stream");
    let mut read = other.open().await.expect("a stream");
    assert!(deaf.read(&mut unread).await);
    let long = "x".repeat(30_000);
    let stalled = async || metric(&api, "http_stalled_connections_total").await;
    // More than the system's buffers hold.
    for _ in 0..20 {
        let lines: Vec<Change> = (0..25)
            .map(|_| Change::Log(domain::NewEvent::info(long.as_str())))
            .collect();
        let events = worker.progress(run, epoch, lines).await;
        let newest = events.last().unwrap().seq;
        while other.seen < newest {
            assert!(other.read(&mut read).await, "who reads is served");
        }
    }
    eventually(LONG, async || stalled().await >= 1.0).await;
    worker.complete(run, epoch).await;
    let count = stored(&worker, run).await.len() as i64;
    assert_eq!(deaf.follow(LONG * 2).await.seen, count);
    drop(unread);
}
