//! Whether the Redis server is fit to hold a queue, asked once it answers, also long after the start.

use bootstrap::Shutdown;
use queue::Queue;
use tokio_util::sync::CancellationToken;

/// Asks in the background. The token fires, with an orderly stop, when the server cannot be used with these settings;
/// the process then ends with 64.
pub fn vet(queue: Queue, shutdown: &Shutdown) -> CancellationToken {
    let unfit = CancellationToken::new();
    let (told, shutdown) = (unfit.clone(), shutdown.clone());
    let soft = shutdown.soft();
    let work = async move {
        let faults = queue.vet_server().await;
        if !faults.is_empty() {
            tracing::error!("invalid settings: {}", faults.join(", "));
            told.cancel();
            shutdown.begin();
        }
    };
    tokio::spawn(soft.run_until_cancelled_owned(work));
    unfit
}
