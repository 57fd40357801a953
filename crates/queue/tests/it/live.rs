//! Live events and control signals.

use crate::support::{Bench, LONG, fresh_run};
use domain::{Event, Ids, NewEvent, RunId, SystemIds};
use queue::{Control, ControlSignal, LiveBus, LiveSubscription, RedisOptions, Signal, log_channel};
use std::time::{Duration, Instant};
use testkit::{FaultProxy, eventually, free_port};

fn event(run_id: RunId, seq: i64) -> Event {
    let new = NewEvent::info(format!("line {seq}"));
    Event {
        id: SystemIds.uuid(),
        run_id,
        seq,
        log_type: new.log_type,
        message: new.message,
        metadata: new.metadata,
        created_at: "2026-11-20T17:00:00Z".parse().unwrap(),
    }
}

async fn connected(bench: &Bench) -> LiveBus {
    let bus = LiveBus::connect(&bench.options()).unwrap();
    bus.connected().wait_for(|yes| *yes).await.unwrap();
    bus
}

/// The next message; passes over the Dirty of a fresh subscription.
async fn message(subscription: &mut LiveSubscription) -> String {
    let limit = Instant::now() + LONG;
    loop {
        let left = limit.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, subscription.next()).await.unwrap() {
            Signal::Message(text) => return text.to_string(),
            Signal::Dirty => {}
        }
    }
}

async fn dirty(subscription: &mut LiveSubscription) {
    loop {
        let signal = tokio::time::timeout(LONG, subscription.next()).await.unwrap();
        if signal == Signal::Dirty {
            return;
        }
    }
}

fn subscribers(bench: &Bench, run_id: RunId) -> String {
    let channel = log_channel(run_id);
    let answer = bench.redis.cli(&["PUBSUB", "NUMSUB", &channel]);
    answer.lines().nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn events_arrive_as_their_default_data_in_order() {
    let bench = Bench::start().await;
    let bus = connected(&bench).await;
    let run_id = fresh_run();
    let mut viewer = bus.subscribe(run_id).await;
    let events: Vec<Event> = (1..=3).map(|seq| event(run_id, seq)).collect();
    bench.queue.publish(&events).await.unwrap();
    for event in &events {
        let expected = domain::wire::default_data(event).to_string();
        assert_eq!(message(&mut viewer).await, expected);
    }
    let channels = bench.redis.cli(&["PUBSUB", "CHANNELS", "agent:logs:*"]);
    assert_eq!(channels, log_channel(run_id));
}

#[tokio::test]
async fn all_watchers_of_a_run_share_one_subscription_that_ends_after_them() {
    let bench = Bench::start().await;
    let bus = connected(&bench).await;
    let run_id = fresh_run();
    let mut first = bus.subscribe(run_id).await;
    let mut second = bus.clone().subscribe(run_id).await;
    assert_eq!(subscribers(&bench, run_id), "1");
    bench
        .queue
        .publish_transient(run_id, "x".to_owned())
        .await
        .unwrap();
    assert_eq!(message(&mut first).await, "x");
    assert_eq!(message(&mut second).await, "x");
    drop(first);
    drop(second);
    let gone = Instant::now();
    eventually(LONG, async || subscribers(&bench, run_id) == "0").await;
    assert!(gone.elapsed() > Duration::from_secs(9), "{:?}", gone.elapsed());
    let mut again = bus.subscribe(run_id).await;
    bench
        .queue
        .publish_transient(run_id, "y".to_owned())
        .await
        .unwrap();
    assert_eq!(message(&mut again).await, "y");
}

#[tokio::test]
async fn after_a_restart_every_watcher_is_told_and_hears_again() {
    let mut bench = Bench::start().await;
    let bus = connected(&bench).await;
    let runs: Vec<RunId> = (0..600).map(|_| fresh_run()).collect();
    let mut viewers = Vec::new();
    for run_id in &runs {
        viewers.push(bus.subscribe(*run_id).await);
    }
    let mut state = bus.connected();
    bench.redis.kill();
    state.wait_for(|yes| !*yes).await.unwrap();
    bench.redis.restart().await;
    let back = Instant::now();
    state.wait_for(|yes| *yes).await.unwrap();
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    for viewer in &mut viewers {
        dirty(viewer).await;
    }
    eventually(LONG, async || bench.queue.ping().await.is_ok()).await;
    for (run_id, viewer) in runs.iter().zip(&mut viewers) {
        bench
            .queue
            .publish_transient(*run_id, "after".to_owned())
            .await
            .unwrap();
        assert_eq!(message(viewer).await, "after");
    }
}

#[tokio::test]
async fn subscribing_while_redis_is_away_returns_soon_and_becomes_good_later() {
    let redis = Bench::start().await;
    let port = free_port();
    let bus = LiveBus::connect(&RedisOptions::for_url(format!("redis://127.0.0.1:{port}"))).unwrap();
    let started = Instant::now();
    let away = bus.subscribe(fresh_run()).await;
    assert!(
        started.elapsed() < Duration::from_millis(700),
        "{:?}",
        started.elapsed()
    );
    assert!(!*bus.connected().borrow());
    drop(away);

    let proxy = FaultProxy::start(redis.redis.port()).await;
    proxy.cut();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let bus = LiveBus::connect(&RedisOptions::for_url(url)).unwrap();
    let run_id = fresh_run();
    let mut viewer = bus.subscribe(run_id).await;
    proxy.restore();
    bus.connected().wait_for(|yes| *yes).await.unwrap();
    dirty(&mut viewer).await;
    redis
        .queue
        .publish_transient(run_id, "now".to_owned())
        .await
        .unwrap();
    assert_eq!(message(&mut viewer).await, "now");
}

#[tokio::test]
async fn a_half_open_connection_is_noticed_and_replaced() {
    let bench = Bench::start().await;
    let proxy = FaultProxy::start(bench.redis.port()).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let bus = LiveBus::connect(&RedisOptions::for_url(url)).unwrap();
    let run_id = fresh_run();
    let mut state = bus.connected();
    state.wait_for(|yes| *yes).await.unwrap();
    let mut viewer = bus.subscribe(run_id).await;
    proxy.stall();
    let stalled = Instant::now();
    state.wait_for(|yes| !*yes).await.unwrap();
    assert!(
        stalled.elapsed() < Duration::from_secs(6),
        "{:?}",
        stalled.elapsed()
    );
    proxy.restore();
    state.wait_for(|yes| *yes).await.unwrap();
    dirty(&mut viewer).await;
    // The replacement of the connection may still be under way: what falls into it is announced as Dirty.
    let heard = tokio::spawn(async move { message(&mut viewer).await });
    eventually(LONG, async || {
        bench
            .queue
            .publish_transient(run_id, "again".to_owned())
            .await
            .unwrap();
        heard.is_finished()
    })
    .await;
    assert_eq!(heard.await.unwrap(), "again");
}

#[tokio::test]
async fn a_slow_watcher_is_told_to_read_the_store_and_slows_nobody() {
    let bench = Bench::start().await;
    let bus = connected(&bench).await;
    let run_id = fresh_run();
    let mut slow = bus.subscribe(run_id).await;
    let mut quick = bus.subscribe(run_id).await;
    let lines = 2000;
    let reader = tokio::spawn(async move {
        let mut seen = 0;
        loop {
            match quick.next().await {
                Signal::Message(text) if text.as_ref() == "end" => return seen,
                Signal::Message(_) => seen += 1,
                Signal::Dirty => {}
            }
        }
    });
    for chunk in 0..lines / 20 {
        let events: Vec<Event> = (1..=20).map(|seq| event(run_id, chunk * 20 + seq)).collect();
        bench.queue.publish(&events).await.unwrap();
    }
    bench
        .queue
        .publish_transient(run_id, "end".to_owned())
        .await
        .unwrap();
    let seen = tokio::time::timeout(LONG, reader).await.unwrap().unwrap();
    assert!(seen > 0);
    dirty(&mut slow).await;
}

#[tokio::test]
async fn a_control_signal_reaches_the_workers() {
    let bench = Bench::start().await;
    let mut control = Control::connect(&bench.options()).await.unwrap();
    let run_id = fresh_run();
    bench.redis.cli(&["PUBLISH", "agent:control", "no run id"]);
    bench.queue.signal(run_id).await.unwrap();
    loop {
        match tokio::time::timeout(LONG, control.next()).await.unwrap() {
            ControlSignal::Dirty => {}
            ControlSignal::Run(heard) => {
                assert_eq!(heard, run_id);
                return;
            }
        }
    }
}
