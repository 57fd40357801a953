//! Redis is away for a minute while starts go on, and comes back with its data, or without.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::Place;
use super::figure::Figures;
use super::scene::{RIGHT_GOAL_SECONDS, Scene};
use super::starts::Starts;
use crate::fault;
use crate::history::now_us;
use crate::script::count;

const AWAY: Duration = Duration::from_mins(1);
const STARTS_PER_SECOND: u32 = 20;
/// Runs that wait in the lists when Redis dies.
const BACKLOG: usize = 300;
const END_LIMIT: Duration = Duration::from_mins(10);

/// Both forms.
pub async fn run(place: &Place) -> Figures {
    let mut figures = Figures::of("redis-away");
    for (form, lose) in [("with its data", false), ("without its data", true)] {
        let before = figures.all.len();
        away(&place.part(form), lose, &mut figures).await;
        for figure in &mut figures.all[before..] {
            figure.what = format!("{} ({form})", figure.what);
        }
    }
    figures
}

async fn away(place: &Place, lose: bool, figures: &mut Figures) {
    let scene = Scene::start(&place.dir, |setup| {
        let setup = setup.bin_dir(place.bin_dir.as_deref());
        setup.size(2, 2).env("WORKER_CONCURRENCY", "20")
    })
    .await;
    let system = &scene.stage.system;
    let think = json!({"type": "sleep", "ms": 1_000});
    let items = [
        count("idempotent", 0, false),
        think,
        count("at_most_once", 0, false),
    ];
    let starts = Starts::begin(&scene.starter, STARTS_PER_SECOND, &items);
    scene.starter.begin_many(BACKLOG, &items, 0).await;
    scene.fault(if lose { "redis_loss" } else { "redis_kill" }, "redis", true);
    fault::kill_redis(system, lose, AWAY).await;
    let back = Instant::now();
    let backlog = format!(
        "SELECT -count(*) FROM agent_outbox WHERE created_at < to_timestamp({} / 1000000.0)",
        now_us()
    );
    figures.told(
        "backlog when Redis is back",
        -scene.number(&backlog).await as f64,
        "",
    );
    scene.until(&backlog, 0, END_LIMIT).await;
    figures.at_most(
        RIGHT_GOAL_SECONDS,
        "until the backlog is enqueued",
        back.elapsed().as_secs_f64(),
        "s",
    );
    let begun_s = back.elapsed().as_secs_f64();
    scene.until_right(system.redis_port, begun_s, figures).await;
    starts.end(figures).await;
    scene.rest(system.redis_port, END_LIMIT).await;
    scene.end().await.judge(figures);
}
