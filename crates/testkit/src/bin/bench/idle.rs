//! What a worker costs that has nothing to do, and one that holds many runs which only wait.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde_json::json;

use crate::Plan;
use crate::ceilings::CONNECTIONS;
use crate::cpu;
use crate::monitor::count_commands;
use crate::numbers::Figure;
use crate::system::{Stores, System, client, rss_mib};

/// A worker at rest has done its first reconciliation.
const SETTLE: Duration = Duration::from_secs(3);
/// Longest sleep of the waiting runs: none ends while it is measured.
const SLEEP_MS: u64 = 600_000;
const ALL_HELD_LIMIT: Duration = Duration::from_mins(10);
const POLL: Duration = Duration::from_millis(200);
/// Several renewals fall into it.
const RENEWALS_WATCHED: Duration = Duration::from_secs(15);
const TICKS_PER_S: f64 = 100.0;

/// Commands per second that Redis gets from one idle worker: scripts count once, what they do inside does not.
pub(crate) async fn commands(stores: &Stores, plan: Plan) -> Vec<Figure> {
    let system = System::start(stores, 1).await;
    tokio::time::sleep(SETTLE).await;
    let counted = count_commands(&stores.redis, plan.idle).await;
    system.stop().await;
    let seconds = plan.idle.as_secs_f64();
    let of = |counts: &BTreeMap<String, usize>| counts.values().sum::<usize>() as f64 / seconds;
    let mut figures =
        vec![Figure::new("idle worker and api, Redis commands", "/s", of(&counted)).goal_at_most(2.0)];
    for (command, count) in counted {
        let name = format!("  of these {command}");
        figures.push(Figure::new(name, "/s", count as f64 / seconds));
    }
    figures
}

/// Runs that sleep in their model call, all held by one worker.
pub(crate) async fn held_runs(stores: &Stores, plan: Plan) -> Vec<Figure> {
    let places = (plan.held + 1).to_string();
    let system = System::start_with(stores, 1, &[("WORKER_CONCURRENCY", &places)]).await;
    tokio::time::sleep(SETTLE).await;
    let worker = system.workers[0].pid();
    let before_mib = rss_mib(worker);
    let script = json!({"script": [{"type": "sleep", "ms": SLEEP_MS}, {"type": "done"}]}).to_string();
    let begun = Instant::now();
    start_all(&system, plan.held, &script).await;
    while system.executing().await < plan.held {
        assert!(begun.elapsed() < ALL_HELD_LIMIT, "not all runs are held");
        tokio::time::sleep(POLL).await;
    }
    tokio::time::sleep(SETTLE).await;
    let held_mib = rss_mib(worker);
    let redis = stores.redis.pid();
    let ticks = (cpu::ticks(redis), cpu::ticks(worker));
    tokio::time::sleep(RENEWALS_WATCHED).await;
    let share = |now: f64, then: f64| (now - then) / TICKS_PER_S / RENEWALS_WATCHED.as_secs_f64() * 100.0;
    let shares = (
        share(cpu::ticks(redis), ticks.0),
        share(cpu::ticks(worker), ticks.1),
    );
    assert_eq!(system.executing().await, plan.held, "all are held still");
    system.kill();
    let count = plan.held;
    vec![
        Figure::new(
            format!("{count} leased idle runs, worker memory per run"),
            "KiB",
            (held_mib - before_mib) * 1024.0 / count as f64,
        )
        .goal_at_most(20.0),
        Figure::new(
            format!("{count} leased idle runs, Redis' share of a processor"),
            "%",
            shares.0,
        )
        .goal_at_most(1.0),
        Figure::new(
            format!("{count} leased idle runs, worker's share of a processor"),
            "%",
            shares.1,
        ),
    ]
}

async fn start_all(system: &System, number: usize, script: &str) {
    let lane = |lane: usize| async move {
        let client = client();
        for _ in (lane..number).step_by(CONNECTIONS) {
            system.create_started(&client, script).await;
        }
    };
    join_all((0..CONNECTIONS).map(lane)).await;
}
