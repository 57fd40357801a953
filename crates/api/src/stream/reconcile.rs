//! Finds what the bus did not say: compares the heads of all watched runs with the store, for ever.
//!
//! Its cost is per watched run, not per viewer. It also notices a store that is away for good, and ends the streams
//! when the process shuts down; until the last of them has ended it goes on.

use super::{EventStore, LiveBus, Tails};
use domain::RunId;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between two rounds while the bus works: a message lost on it is made good within a second.
const INTERVAL: Duration = Duration::from_millis(800);
/// Between two rounds while the bus is away.
const INTERVAL_BUS_DOWN: Duration = Duration::from_millis(400);
/// Runs per query.
const CHUNK: usize = 500;
/// Time for one query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// A store away for longer ends the streams.
pub const STORE_PATIENCE: Duration = Duration::from_secs(30);

/// Runs until `stop` has fired and the streams have ended.
pub async fn run<S: EventStore, B: LiveBus>(tails: Tails<S, B>, stop: CancellationToken) {
    let rounds = rounds(&tails);
    tokio::pin!(rounds);
    tokio::select! {
        biased;
        () = stop.cancelled() => tails.close(),
        () = &mut rounds => return,
    }
    tokio::select! {
        biased;
        () = tails.left() => {}
        () = rounds => {}
    }
}

async fn rounds<S: EventStore, B: LiveBus>(tails: &Tails<S, B>) {
    let mut lost_since: Option<Instant> = None;
    loop {
        let connected = tails.bus().connected();
        tails.meter().bus_connected.set(f64::from(u8::from(connected)));
        let pause = if connected { INTERVAL } else { INTERVAL_BUS_DOWN };
        tokio::time::sleep(pause).await;
        let answered = round(tails).await;
        if answered {
            lost_since = None;
        }
        let since = (!answered).then(|| *lost_since.get_or_insert_with(Instant::now));
        tails.set_interrupted(since.is_some_and(|since| since.elapsed() >= STORE_PATIENCE));
    }
}

/// One comparison; `false` when the store did not answer.
async fn round<S: EventStore, B: LiveBus>(tails: &Tails<S, B>) -> bool {
    let watched: Vec<RunId> = tails.watched().iter().map(|tail| tail.run).collect();
    for chunk in watched.chunks(CHUNK) {
        match tokio::time::timeout(QUERY_TIMEOUT, tails.store().heads(chunk)).await {
            Ok(Ok(heads)) => tails.compare(&heads),
            Ok(Err(_)) | Err(_) => return false,
        }
    }
    true
}
