//! Waiting for something to become true, with a deadline instead of a guess.

use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(10);

/// Polls `condition` until it is true. Panics when `limit` has passed.
///
/// # Panics
/// With the caller's line, when the condition stays false.
#[track_caller]
pub fn eventually<F, Fut>(limit: Duration, mut condition: F) -> impl Future<Output = ()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let caller = std::panic::Location::caller();
    async move {
        let met = eventually_some(limit, || {
            let met = condition();
            async move { met.await.then_some(()) }
        });
        assert!(
            met.await.is_some(),
            "{caller}: the condition did not become true within {limit:?}"
        );
    }
}

/// Polls `probe` until it gives a value; `None` when `limit` has passed.
pub async fn eventually_some<T, F, Fut>(limit: Duration, mut probe: F) -> Option<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe().await {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(EVERY).await;
    }
}
