//! `agentctl queue stats`: the queue in a dozen numbers.

use super::{database, failed, store_failed};
use crate::console::Console;
use crate::failure::{Code, Failure};
use crate::place::Place;
use crate::render;
use domain::{Clock as _, SystemClock};
use jiff::SignedDuration;
use queue::{Glance, ListName, Queue};
use runs::{Backlog, Outbox};
use serde_json::{Value, json};

/// A worker that has not beaten for this long does not count; it beats every 3 s.
const ALIVE_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// Workers that beat lately.
pub(super) async fn living_workers(queue: &Queue) -> Result<Vec<String>, Failure> {
    let now = SystemClock.now();
    let workers = queue.workers().await.map_err(|error| failed(&error))?;
    let alive = workers
        .into_iter()
        .filter(|(_, beat)| now.duration_since(*beat) <= ALIVE_WITHIN);
    Ok(alive.map(|(worker, _)| worker.0).collect())
}

pub(super) async fn stats(
    console: Console,
    queue: &Queue,
    place: &Place,
    as_json: bool,
) -> Result<Code, Failure> {
    let glance = queue.glance().await.map_err(|error| failed(&error))?;
    let workers = living_workers(queue).await?.len();
    // Without Postgres the queue can still be looked at.
    let backlog = match database(place) {
        Ok(db) => Some(
            Outbox::new(db)
                .backlog()
                .await
                .map_err(|error| store_failed(&error))?,
        ),
        Err(_) => None,
    };
    if as_json {
        console.out(&object(&glance, workers, backlog).to_string())?;
        return Ok(Code::Ok);
    }
    let mut rows: Vec<Vec<String>> = ListName::ALL
        .iter()
        .map(|list| vec![list.suffix().to_owned(), glance.depths.of(*list).to_string()])
        .collect();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    let seconds = |ms: u64| format!("{}.{} s", ms / 1000, ms % 1000 / 100);
    row(
        "oldest pending",
        glance
            .oldest_pending_age_ms
            .map_or_else(|| "-".to_owned(), seconds),
    );
    row("claiming", if glance.paused { "paused" } else { "on" }.to_owned());
    row("workers", workers.to_string());
    row("orphans", glance.orphans.to_string());
    row(
        "outbox",
        match backlog {
            None => "not known (DATABASE_URL is not set)".to_owned(),
            Some(Backlog { rows: 0, .. }) => "0".to_owned(),
            Some(backlog) => format!("{}, oldest {}", backlog.rows, seconds(backlog.oldest_age_ms)),
        },
    );
    render::table(&rows)
        .iter()
        .try_for_each(|line| console.out(line))?;
    Ok(Code::Ok)
}

fn object(glance: &Glance, workers: usize, backlog: Option<Backlog>) -> Value {
    let mut object = json!({
        "oldest_pending_age_seconds": glance.oldest_pending_age_ms.map(|ms| ms as f64 / 1000.0),
        "paused": glance.paused,
        "workers": workers,
        "orphans": glance.orphans,
        "outbox_pending": backlog.map(|backlog| backlog.rows),
        "outbox_oldest_age_seconds": backlog.map(|backlog| backlog.oldest_age_ms as f64 / 1000.0),
    });
    for list in ListName::ALL {
        object[list.suffix()] = json!(glance.depths.of(list));
    }
    object
}
