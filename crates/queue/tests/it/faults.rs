//! Redis killed, restarted, cut off, emptied of scripts; replies lost.

use crate::support::{Bench, LEASE, LONG, connected, consumer, job, numbers};
use queue::{Queue, RedisOptions, Settled};
use std::time::{Duration, Instant};
use testkit::{FaultProxy, Redis, eventually, free_port};

/// A queue behind a proxy.
async fn behind_proxy(bench: &Bench) -> (FaultProxy, Queue) {
    let proxy = FaultProxy::start(bench.redis.port()).await;
    let queue = connected(&format!("redis://127.0.0.1:{}", proxy.port())).await;
    (proxy, queue)
}

#[tokio::test]
async fn scripts_flushed_from_the_server_are_sent_again() {
    let bench = Bench::start().await;
    bench.queue.push(&job(1)).await.unwrap();
    bench.redis.cli(&["SCRIPT", "FLUSH"]);
    let consumer = bench.consumer("w1");
    let delivery = bench.claim_one(&consumer).await;
    bench.redis.cli(&["SCRIPT", "FLUSH"]);
    assert_eq!(delivery.ack().await.unwrap(), Settled::Done);
}

#[tokio::test]
async fn calls_fail_at_once_while_redis_is_away_and_work_when_it_is_back() {
    let mut bench = Bench::start().await;
    bench.queue.push(&job(1)).await.unwrap();
    bench.redis.kill();
    let started = Instant::now();
    let fault = bench.queue.push(&job(2)).await.unwrap_err();
    assert!(fault.is_unavailable(), "{fault:?}");
    assert!(bench.queue.ping().await.is_err());
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    bench.redis.restart().await;
    let back = Instant::now();
    eventually(LONG, async || bench.queue.push(&job(3)).await.is_ok()).await;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    let claimed = bench.consumer("w1").claim(9).await.unwrap();
    assert_eq!(
        numbers(&claimed),
        [1, 3],
        "the failed push must not be carried out later"
    );
}

#[tokio::test]
async fn connecting_before_redis_is_there_returns_at_once_and_recovers() {
    let port = free_port();
    let queue = Queue::connect(&RedisOptions::for_url(format!("redis://127.0.0.1:{port}")))
        .await
        .unwrap();
    assert!(queue.push(&job(1)).await.unwrap_err().is_unavailable());
    let proxy_target = Redis::start().await;
    drop(queue);
    let queue = connected(&proxy_target.url()).await;
    assert!(queue.push(&job(1)).await.unwrap());
}

#[tokio::test]
async fn a_waiting_consumer_goes_on_after_a_restart() {
    let mut bench = Bench::start().await;
    let mut consumer = bench.consumer("w1");
    consumer.wait().await;
    for round in 1..=3 {
        {
            let wait = consumer.wait();
            tokio::pin!(wait);
            tokio::select! {
                () = &mut wait => {}
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
        bench.redis.kill();
        bench.redis.restart().await;
        let back = Instant::now();
        eventually(LONG, async || bench.queue.push(&job(round)).await.is_ok()).await;
        let delivery = loop {
            consumer.wait().await;
            if let Ok(mut claimed) = consumer.claim(1).await
                && let Some(delivery) = claimed.pop()
            {
                break delivery;
            }
            assert!(
                back.elapsed() < Duration::from_secs(5),
                "not consuming in round {round}"
            );
        };
        assert_eq!(delivery.ack().await.unwrap(), Settled::Done);
    }
}

#[tokio::test]
async fn killed_client_connections_cost_no_job() {
    let bench = Bench::start().await;
    let mut consumer = bench.consumer("w1");
    let mut done = Vec::new();
    for round in 0..20 {
        eventually(LONG, async || bench.queue.push(&job(round)).await.is_ok()).await;
        bench.redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        let deadline = Instant::now() + LONG;
        while done.len() <= round as usize {
            assert!(Instant::now() < deadline, "round {round}:\n{}", bench.snapshot());
            if let Ok(claimed) = consumer.claim(4).await {
                for delivery in claimed {
                    done.push(delivery.job.clone());
                    assert_eq!(delivery.deliveries, 1);
                    delivery.ack().await.unwrap();
                }
            }
            consumer.wait().await;
        }
    }
    done.sort_by_key(|job| job.job_id);
    assert_eq!(done, (0..20).map(job).collect::<Vec<_>>());
    assert_eq!(bench.snapshot(), "");
}

#[tokio::test]
async fn a_claim_whose_reply_was_lost_is_handed_out_again_without_counting_twice() {
    let bench = Bench::start().await;
    let (proxy, queue) = behind_proxy(&bench).await;
    let consumer = consumer(&queue, "w1", LEASE);
    assert!(consumer.claim(1).await.unwrap().is_empty());
    bench.queue.push_all(&[job(1), job(2), job(3)]).await.unwrap();
    proxy.drop_reply_to("EVALSHA");
    assert!(consumer.claim(2).await.unwrap_err().is_unavailable());
    eventually(LONG, async || bench.llen("jobs:processing") == 2).await;
    eventually(LONG, async || queue.ping().await.is_ok()).await;
    let again = consumer.claim(1).await.unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].deliveries, 1);
    assert_eq!(
        bench.llen("jobs:processing"),
        1,
        "what is over the wish went back to the front"
    );
    let rest = consumer.claim(5).await.unwrap();
    assert_eq!(rest.len(), 2);
    assert!(rest.iter().all(|delivery| delivery.deliveries == 1));
    let mut all = numbers(&again);
    all.extend(numbers(&rest));
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3]);
}

#[tokio::test]
async fn settlements_and_pushes_whose_reply_was_lost_may_be_repeated() {
    let bench = Bench::start().await;
    let (proxy, queue) = behind_proxy(&bench).await;
    let consumer = consumer(&queue, "w1", LEASE);
    proxy.drop_reply_to("EVALSHA");
    // The first push teaches the server the script, so its EVALSHA is refused and carries nothing out.
    assert!(queue.push(&job(9)).await.is_err());
    eventually(LONG, async || queue.push(&job(9)).await.is_ok()).await;
    proxy.drop_reply_to("EVALSHA");
    assert!(queue.push(&job(1)).await.is_err());
    eventually(LONG, async || queue.push(&job(1)).await.is_ok()).await;
    assert_eq!(bench.llen("jobs:pending"), 2);
    let mut claimed = consumer.claim(2).await.unwrap();
    proxy.drop_reply_to("EVALSHA");
    let retried = claimed
        .pop()
        .unwrap()
        .retry(Duration::from_mins(1), "x")
        .await
        .unwrap();
    assert_eq!(retried, Settled::Done);
    proxy.drop_reply_to("EVALSHA");
    let acked = claimed.pop().unwrap().ack().await.unwrap();
    assert!(matches!(acked, Settled::Done | Settled::Gone), "{acked:?}");
    assert_eq!(
        bench.snapshot(),
        "retry: 1\njobs:retry:due: 1\njobs:meta: 1\njobs:body: 1\n"
    );
}

#[tokio::test]
async fn a_half_open_connection_does_not_hang_a_call() {
    let bench = Bench::start().await;
    let (proxy, queue) = behind_proxy(&bench).await;
    let mut waiting = consumer(&queue, "w1", LEASE);
    waiting.wait().await;
    proxy.stall();
    let started = Instant::now();
    assert!(queue.push(&job(1)).await.unwrap_err().is_unavailable());
    assert!(started.elapsed() < Duration::from_secs(2));
    tokio::time::timeout(Duration::from_secs(3), waiting.wait())
        .await
        .unwrap();
    proxy.restore();
    let back = Instant::now();
    loop {
        waiting.wait().await;
        eventually(LONG, async || queue.push(&job(2)).await.is_ok()).await;
        if waiting.claim(5).await.is_ok_and(|claimed| !claimed.is_empty()) {
            break;
        }
        assert!(back.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn a_full_redis_is_unavailable_and_loses_nothing() {
    let bench = Bench::start().await;
    let consumer = bench.consumer("w1");
    bench.queue.push_all(&[job(1), job(2)]).await.unwrap();
    let mut claimed = consumer.claim(1).await.unwrap();
    bench.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert!(bench.queue.push(&job(3)).await.unwrap_err().is_unavailable());
    assert!(consumer.claim(1).await.unwrap_err().is_unavailable());
    assert_eq!(claimed.pop().unwrap().ack().await.unwrap(), Settled::Done);
    bench.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(numbers(&consumer.claim(5).await.unwrap()), [2]);
}
