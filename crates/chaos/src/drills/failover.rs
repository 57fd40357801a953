//! A replica takes over while its primary is killed, without the primary's newest writes.

use std::time::Duration;

use serde_json::json;
use testkit::{FaultProxy, Redis, eventually};
use tokio::time::Instant;

use super::Place;
use super::figure::Figures;
use super::scene::Scene;
use super::starts::Starts;
use crate::script::count;
use crate::system::StoreName;

const STARTS_PER_SECOND: u32 = 20;
/// Runs that wait in the lists at the failover.
const BACKLOG: usize = 300;
/// How long the primary takes writes that the replica never gets.
const TAIL: Duration = Duration::from_secs(2);
/// Nobody is primary for this long.
const GAP: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(30);
const END_LIMIT: Duration = Duration::from_mins(10);

/// Runs the drill.
pub async fn run(place: &Place) -> Figures {
    let mut figures = Figures::of("failover");
    let scene = Scene::start(&place.dir, |setup| {
        let setup = setup.bin_dir(place.bin_dir.as_deref());
        setup.size(2, 2).env("WORKER_CONCURRENCY", "10")
    })
    .await;
    let system = &scene.stage.system;
    let replica = Redis::start().await;
    let replication = FaultProxy::start(system.redis_port).await;
    follow(&replica, &replication).await;
    let think = json!({"type": "sleep", "ms": 700});
    let items = [
        count("idempotent", 0, false),
        think,
        count("at_most_once", 0, false),
    ];
    let starts = Starts::begin(&scene.starter, STARTS_PER_SECOND, &items);
    scene.starter.begin_many(BACKLOG, &items, 0).await;

    replication.cut();
    tokio::time::sleep(TAIL).await;
    scene.fault("redis_failover", "redis", true);
    let mut primary = system.stores.redis.lock().await;
    let tail = offset(&primary, "master_repl_offset") - offset(&replica, "slave_repl_offset");
    primary.kill();
    figures.told("writes the replica never got", tail as f64, "bytes");
    tokio::time::sleep(GAP).await;
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    for node in system.nodes() {
        node.links.to(StoreName::Redis).retarget(replica.port());
    }
    let back = Instant::now();
    scene.until_right(replica.port(), 0.0, &mut figures).await;
    tokio::time::sleep(LIMIT.saturating_sub(back.elapsed())).await;
    starts.end(&mut figures).await;
    let lists = scene.rest(replica.port(), END_LIMIT).await;
    // The checker wants a Redis where it knows one; what counts are the lists of the replica.
    primary.restart().await;
    drop(primary);
    let mut remains = scene.end().await;
    remains.facts.lists = lists.unwrap_or_default();
    remains.judge(&mut figures);
    figures
}

async fn follow(replica: &Redis, link: &FaultProxy) {
    replica.cli(&["REPLICAOF", "127.0.0.1", &link.port().to_string()]);
    eventually(LIMIT, || {
        let up = replica
            .cli(&["INFO", "replication"])
            .contains("master_link_status:up");
        std::future::ready(up)
    })
    .await;
}

/// A number of `INFO replication`.
fn offset(redis: &Redis, name: &str) -> i64 {
    let info = redis.cli(&["INFO", "replication"]);
    let of = |line: &str| line.trim().strip_prefix(name)?.strip_prefix(':')?.parse().ok();
    info.lines()
        .find_map(of)
        .unwrap_or_else(|| panic!("no {name} in {info}"))
}
