//! The tasks beside a connection: start it again when it gives up, replace it when it is silent, report its outages.

use crate::connection::Patience;
use fred::clients::Client;
use fred::error::ErrorKind;
use fred::interfaces::{ClientLike, EventInterface};
use fred::types::Value;
use fred::types::config::Options;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a connection is looked at, and how long it may have answered nothing before it is asked whether it is alive.
/// One that is in use answers more often, so asking costs an idle system next to nothing.
const PULSE_EVERY: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_millis(1_500);
/// How long it has to answer: more than the longest blocking call, which is answered before.
const PULSE_WAIT: Duration = Duration::from_secs(2);
/// Pause before a client that gave up (wrong password) is started again.
const RESTART_AFTER: Duration = Duration::from_secs(2);
/// Longest wait for an orderly goodbye.
const QUIT_TIMEOUT: Duration = Duration::from_secs(1);
/// Pauses between two log lines of one outage, in seconds; the last one repeats.
const OUTAGE_LOG_SECONDS: [u64; 5] = [1, 2, 4, 8, 10];

/// When a connection last answered anything. Cheap clone.
#[derive(Debug, Clone)]
pub(crate) struct LastAnswer {
    since: Instant,
    at_ms: Arc<AtomicU64>,
}

impl Default for LastAnswer {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            at_ms: Arc::default(),
        }
    }
}

impl LastAnswer {
    pub(crate) fn note(&self) {
        let now_ms = self.since.elapsed().as_millis() as u64;
        self.at_ms.store(now_ms, Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        let at = Duration::from_millis(self.at_ms.load(Ordering::Relaxed));
        self.since.elapsed().saturating_sub(at)
    }
}

/// fred ends its task for good on some errors (authentication); start it again, since the password or the
/// server may be put right.
pub(crate) async fn keep_connected<C: ClientLike>(client: C, role: &'static str, stop: CancellationToken) {
    loop {
        let mut task = client.connect();
        tokio::select! {
            () = stop.cancelled() => {
                if tokio::time::timeout(QUIT_TIMEOUT, client.quit()).await.is_err() {
                    tracing::debug!(role, "redis connection closed without a goodbye");
                }
                task.abort();
                return;
            }
            ended = &mut task => {
                tracing::debug!(role, ?ended, "redis client ended; starting it again");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(RESTART_AFTER) => {}
        }
    }
}

/// Asks a connection now and then whether it answers, and replaces one that does not. A half-open connection is found
/// only by asking: the kernel keeps it for a quarter of an hour, and fred's own check is put off by every command
/// written to it and by every blocking call.
pub(crate) async fn replace_when_silent(
    client: Client,
    role: &'static str,
    last: LastAnswer,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PULSE_EVERY) => {}
        }
        if !client.is_connected() || last.age() < QUIET || is_answered(&client).await {
            continue;
        }
        tracing::warn!(role, "redis connection does not answer; replacing it");
        // While Redis is away this lasts until it is back; the client goes on by itself.
        let replaced = tokio::time::timeout(PULSE_WAIT, client.force_reconnection()).await;
        tracing::debug!(role, ?replaced, "redis connection replaced");
    }
}

/// Any answer counts, also a refusal: a server that loads or is busy is there.
async fn is_answered(client: &Client) -> bool {
    let asking = client.with_options(&Options {
        timeout: Some(PULSE_WAIT),
        ..Patience::Brief.options()
    });
    let answer = asking.ping::<Value>(None).await;
    !answer.is_err_and(|fault| *fault.kind() == ErrorKind::Timeout)
}

/// Counts every connection error and logs those of one outage at a slowing pace.
pub(crate) async fn report_outages<C: ClientLike + EventInterface>(
    client: C,
    role: &'static str,
    stop: CancellationToken,
) {
    let mut errors = client.error_rx();
    let mut connects = client.reconnect_rx();
    let mut outage = Outage::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            error = errors.recv() => match error {
                Ok((fault, _)) => {
                    metrics::counter!("agent_redis_connection_errors_total").increment(1);
                    if outage.is_worth_a_line(Instant::now()) {
                        tracing::warn!(role, fault = %fault, "redis is not reachable; trying again");
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    metrics::counter!("agent_redis_connection_errors_total").increment(missed);
                }
                Err(RecvError::Closed) => return,
            },
            connected = connects.recv() => {
                if matches!(connected, Err(RecvError::Closed)) {
                    return;
                }
                if outage.end() {
                    tracing::info!(role, "redis is reachable again");
                }
            }
        }
    }
}

/// When an outage's next failure is logged.
#[derive(Debug, Default)]
struct Outage {
    lines: usize,
    next_line: Option<Instant>,
}

impl Outage {
    fn is_worth_a_line(&mut self, now: Instant) -> bool {
        if self.next_line.is_some_and(|next| now < next) {
            return false;
        }
        let step = self.lines.min(OUTAGE_LOG_SECONDS.len() - 1);
        self.next_line = Some(now + Duration::from_secs(OUTAGE_LOG_SECONDS[step]));
        self.lines += 1;
        true
    }

    /// True when there was one.
    fn end(&mut self) -> bool {
        std::mem::take(self).lines > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_logged_after_1_2_4_8_and_then_every_10_seconds() {
        let start = Instant::now();
        let mut outage = Outage::default();
        let lines: Vec<u64> = (0..50)
            .filter(|second| outage.is_worth_a_line(start + Duration::from_secs(*second)))
            .collect();
        assert_eq!(lines, [0, 1, 3, 7, 15, 25, 35, 45]);
        assert!(outage.end());
        assert!(!outage.end());
    }
}
