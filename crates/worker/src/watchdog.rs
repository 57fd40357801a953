//! The last resort against "up but not consuming".
//!
//! Progress is a completed claim, nothing else. Three things can be wrong when none completes:
//! - Redis is away, loading, full, read-only or busy. Then waiting is right and ending would help nobody. It is told from
//!   the next by what a fresh connection can do: a write as every claim needs it, not only a PING.
//! - Our own way to Redis is stuck. The connections heal themselves within seconds; should that fail, the process says so
//!   on `/healthz` and ends after [`STUCK_AFTER`], so that whoever started it starts it again.
//! - The runtime itself is blocked. Nothing that runs on it can notice; see [`Progress::beat_of_runtime`] and the lease
//!   thread, which looks from outside.

use crate::intake::Progress;
use domain::ids::WorkerId;
use domain::{Clock, SystemClock};
use queue::{Queue, RedisOptions};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The process ends when no claim completed for this long although Redis could have done one all the time.
const STUCK_AFTER: Duration = Duration::from_secs(15);
/// A healthy loop claims at least once a second; earlier nobody is asked.
const ASK_AFTER: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for the fresh connection's answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
const ANSWER_PAUSE: Duration = Duration::from_millis(100);

/// Looks at the job loop from beside it.
#[derive(Debug)]
pub struct Watchdog {
    pub progress: Progress,
    pub redis: RedisOptions,
    pub worker: WorkerId,
}

impl Watchdog {
    /// Ends with an error when the job loop is stuck, without one when `soft` fires.
    pub async fn run(self, soft: CancellationToken) -> Result<(), String> {
        // Up to here Redis could not have answered a claim.
        let mut excused = Instant::now();
        loop {
            tokio::select! {
                () = soft.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let unanswered = self.progress.unanswered_for();
            if unanswered < ASK_AFTER {
                continue;
            }
            if !self.redis_could_answer().await {
                excused = Instant::now();
                continue;
            }
            if is_stuck(self.progress.unanswered_for(), excused.elapsed()) {
                self.progress.give_up();
                metrics::counter!("agent_worker_stuck_total").increment(1);
                let seconds = self.progress.unanswered_for().as_secs();
                return Err(format!(
                    "no claim completed for {seconds} s although redis answers a fresh connection"
                ));
            }
        }
    }

    /// A new connection can write.
    async fn redis_could_answer(&self) -> bool {
        let asked = async {
            let Ok(queue) = Queue::connect(&self.redis).await else {
                return false;
            };
            while queue.beat(&self.worker, SystemClock.now()).await.is_err() {
                tokio::time::sleep(ANSWER_PAUSE).await;
            }
            true
        };
        tokio::time::timeout(ANSWER_LIMIT, asked).await.unwrap_or(false)
    }
}

/// Both are long ago: the last completed claim, and the last time Redis was seen unable to do one.
fn is_stuck(unanswered: Duration, since_excuse: Duration) -> bool {
    unanswered.min(since_excuse) >= STUCK_AFTER
}

/// Shows that the runtime still runs its tasks, until `stop` fires.
pub async fn beat(progress: Progress, stop: CancellationToken) {
    while !stop.is_cancelled() {
        progress.beat();
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unanswered_loop_beside_an_answering_redis_is_stuck() {
        let seconds = Duration::from_secs;
        assert!(is_stuck(seconds(15), seconds(60)));
        assert!(!is_stuck(seconds(14), seconds(60)), "a claim completed lately");
        assert!(!is_stuck(seconds(600), seconds(14)), "redis has just come back");
        assert!(is_stuck(seconds(600), seconds(15)));
    }
}
