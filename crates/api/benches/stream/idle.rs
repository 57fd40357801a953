//! What a connection costs that waits.

use crate::Plan;
use crate::figures::Figure;
use crate::support::{Load, System};
use std::time::Duration;

const RUNS: usize = 10;
/// The opening requests have left nothing behind by then.
const SETTLE: Duration = Duration::from_secs(3);

pub(crate) async fn connections(plan: Plan) -> Vec<Figure> {
    let system = System::start().await;
    let runs = system.runs(RUNS).await;
    // Pools, threads and the like are there.
    Load::start(system.port(), 50, &runs, &["--hold"])
        .await
        .end(&[])
        .await;
    tokio::time::sleep(SETTLE).await;
    let before = system.rss_kib();
    let load = Load::start(system.port(), plan.idle, &runs, &["--hold"]).await;
    tokio::time::sleep(SETTLE).await;
    let each = (system.rss_kib() - before) / plan.idle as f64;
    load.end(&[]).await;
    tokio::time::sleep(SETTLE).await;
    let left = system.rss_kib() - before;
    vec![
        Figure::new(
            format!("memory per idle connection, {} of them", plan.idle),
            "KiB",
            each,
        )
        .at_most(10.0),
        Figure::new("memory kept when they have left", "KiB", left),
    ]
}
