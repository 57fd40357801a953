//! `FLUSHALL` under load: how long until Postgres has put every run back, and is anything lost or doubled.

use std::time::Duration;

use serde_json::json;

use super::Place;
use super::figure::Figures;
use super::scene::Scene;
use crate::fault;
use crate::script::count;

const WORKERS: usize = 2;
/// Every run takes its first step within this time.
const BEGIN_LIMIT: Duration = Duration::from_mins(5);
/// The queue drains within this time.
const END_LIMIT: Duration = Duration::from_mins(20);

const BEGUN: &str = "SELECT count(*) FROM agent_steps WHERE status = 'completed'";

/// How large the drill is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub queued: usize,
    pub running: usize,
    /// How long the running ones think; longer than it takes to start all of them.
    pub think_ms: u64,
}

impl Size {
    pub const LONG: Self = Self {
        queued: 10_000,
        running: 500,
        think_ms: 75_000,
    };
    pub const SHORT: Self = Self {
        queued: 100,
        running: 20,
        think_ms: 6_000,
    };
}

/// Runs the drill.
pub async fn run(place: &Place, size: Size) -> Figures {
    let mut figures = Figures::of("flushall");
    let slots = size.running.div_ceil(WORKERS).to_string();
    let scene = Scene::start(&place.dir, |setup| {
        let setup = setup.bin_dir(place.bin_dir.as_deref());
        setup
            .size(1, WORKERS)
            .env("WORKER_CONCURRENCY", slots)
            .env("POOL_SIZE", "20")
    })
    .await;
    let system = &scene.stage.system;
    for worker in &system.workers {
        worker.kill();
    }
    // The running ones go first in line and take all slots.
    let think = json!({"type": "sleep", "ms": size.think_ms});
    let long = [
        count("idempotent", 0, false),
        think,
        count("at_most_once", 0, false),
    ];
    scene.starter.begin_many(size.running, &long, 5).await;
    let short = [count("at_most_once", 0, false)];
    scene.starter.begin_many(size.queued, &short, 0).await;
    for worker in &system.workers {
        worker.start();
    }
    scene.until(BEGUN, size.running as i64, BEGIN_LIMIT).await;

    scene.fault("redis_flushall", "redis", true);
    fault::redis(system, &["FLUSHALL"]).await.expect("redis answers");
    scene.until_right(system.redis_port, 0.0, &mut figures).await;
    let still = scene
        .number("SELECT count(*) FROM agent_runs WHERE lease_expires_at > clock_timestamp()")
        .await;
    figures.told("runs that were running all the time", still as f64, "");
    scene.rest(system.redis_port, END_LIMIT).await;
    let taken = scene
        .number("SELECT count(*) FROM agent_runs WHERE fencing_token > 1")
        .await;
    figures.none("runs that were claimed twice", taken as usize);
    scene.end().await.judge(&mut figures);
    figures
}
