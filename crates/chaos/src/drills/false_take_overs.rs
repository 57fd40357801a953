//! All CPUs busy under thousands of leased runs: a worker that is only slow must lose none.

use std::time::Duration;

use serde_json::json;

use super::Place;
use super::figure::Figures;
use super::scene::Scene;
use crate::fault;

const WORKERS: usize = 2;
const RUNS: usize = 2_000;
/// Far longer than the drill.
const THINK_MS: u64 = 6 * 3_600 * 1_000;
const BEGIN_LIMIT: Duration = Duration::from_mins(10);
const HELD: &str =
    "SELECT count(*) FROM agent_runs WHERE status = 'executing' AND lease_expires_at > clock_timestamp()";

const LOST: &str = "SELECT count(*) FROM agent_task_logs WHERE metadata->>'event' = 'executor_lost'";

/// Runs the drill; the CPUs are busy for `busy`.
pub async fn run(place: &Place, busy: Duration) -> Figures {
    let mut figures = Figures::of("false-take-overs");
    let slots = RUNS.div_ceil(WORKERS).to_string();
    let scene = Scene::start(&place.dir, |setup| {
        let setup = setup.bin_dir(place.bin_dir.as_deref());
        setup
            .size(1, WORKERS)
            .env("WORKER_CONCURRENCY", slots)
            .env("AGENT_RUN_TIMEOUT_SECONDS", "86400")
    })
    .await;
    let think = json!({"type": "sleep", "ms": THINK_MS});
    scene.starter.begin_many(RUNS, &[think], 0).await;
    scene.until(HELD, RUNS as i64, BEGIN_LIMIT).await;
    scene.fault("cpu_busy", "machine", false);
    fault::burn_cpus(busy).await;

    let held = scene.number(HELD).await;
    let taken = scene
        .number("SELECT count(*) FROM agent_runs WHERE fencing_token > 1")
        .await;
    let lost = scene.number(LOST).await;
    figures.told("CPUs busy for", busy.as_secs_f64(), "s");
    figures.told("leased runs at the end", held as f64, "");
    figures.none("runs whose lease is not alive at the end", RUNS - held as usize);
    figures.none("runs that were claimed twice", taken as usize);
    figures.none("events executor_lost", lost as usize);
    for name in [
        "agent_leases_lost_total",
        "agent_leases_reclaimed_total",
        "agent_redeliveries_total",
    ] {
        figures.none(name, scene.counter(name).await as usize);
    }
    let missed = scene.counter("agent_lease_renewals_missed_total").await;
    figures.told("renewals that a store did not answer in time", missed, "");
    // The runs would think on for hours; nothing is to be learned from their end.
    figures
}
