//! Renewal of all leases from an OS thread of its own, with its own runtime and connections, so that a busy or
//! blocked main runtime loses none.
//!
//! A run is held twice: by the lease columns of its row (the truth, with the epoch) and by `jobs:lease` (what the
//! reaper looks at). Taking a run over needs both to have run out, so one store may be away without harm. When neither
//! confirmed a lease for almost its whole length the run is given up here, before another worker can own it.

use crate::figures::{self, LeaseAction};
use crate::held::{HeldRuns, Hold, LEASE_MARGIN};
use crate::intake::Progress;
use crate::log::with_sources;
use bootstrap::settings::exit;
use domain::SystemIds;
use domain::breakage::{self, Breakage};
use domain::ids::{RunId, WorkerId};
use queue::{RedisOptions, Renewer};
use runs::{Db, DbOptions, Leases, RenewalStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How often it is looked at whether a lease must be given up, whatever a store is doing at the moment.
const FENCE_EVERY: Duration = Duration::from_millis(100);
/// Pause before the next renewal after one that a store did not confirm.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Longest wait for one store; well below the lease, so that a second renewal fits in.
const ANSWER_LIMIT: Duration = Duration::from_millis(2800);
/// The worker's runtime is taken for dead when it ran nothing for this many looks in a row.
const BLOCKED_LOOKS: u32 = 30;
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the thread needs; everything in it is its own.
#[derive(Debug)]
pub struct LeaseThread {
    pub worker: WorkerId,
    pub held: HeldRuns,
    pub db: DbOptions,
    pub redis: RedisOptions,
    pub lease: Duration,
    pub every: Duration,
    pub stop: CancellationToken,
}

impl LeaseThread {
    /// Starts the thread; it ends when `stop` fires. `progress` is that of the runtime whose runs it holds.
    pub fn start(self, progress: Progress) -> std::io::Result<std::thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("lease".to_owned())
            .spawn(move || {
                if let Err(error) = runtime.block_on(self.run(&progress)) {
                    tracing::error!(error = %error, "lease thread cannot work");
                }
            })
    }

    async fn run(self, progress: &Progress) -> anyhow::Result<()> {
        let leases = Leases::new(Db::connect(&DbOptions {
            pool_size: 1,
            ..self.db.clone()
        })?);
        let renewer = Renewer::connect(&self.redis, self.worker.clone(), Arc::new(SystemIds))?;
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.renew_all(&leases, renewer) => {}
            () = self.fence() => {}
            () = until_blocked(progress) => die_blocked(),
        }
        Ok(())
    }

    async fn renew_all(&self, leases: &Leases, mut renewer: Renewer) {
        loop {
            let begun = Instant::now();
            let confirmed = self.renew(leases, &mut renewer).await;
            let rest = self.every.saturating_sub(begun.elapsed());
            let pause = if confirmed { rest } else { rest.min(AGAIN_AFTER) };
            tokio::time::sleep(pause).await;
        }
    }

    /// One renewal in both stores; true when both took part.
    async fn renew(&self, leases: &Leases, renewer: &mut Renewer) -> bool {
        let held = self.held.all();
        let limit = ANSWER_LIMIT.min(self.every);
        let (in_postgres, in_redis) = tokio::join!(
            timeout(limit, self.renew_in_postgres(leases, &held)),
            timeout(limit, self.renew_in_redis(renewer, &held)),
        );
        if in_postgres.is_err() || in_redis.is_err() {
            metrics::counter!("agent_lease_renewals_missed_total").increment(1);
        }
        in_postgres.unwrap_or(false) && in_redis.unwrap_or(false)
    }

    async fn renew_in_postgres(&self, leases: &Leases, held: &[(RunId, Hold)]) -> bool {
        // The lease runs from when the store got the question, not from when we got the answer.
        let asked = Instant::now();
        let claims: Vec<(RunId, i64)> = held
            .iter()
            .filter_map(|(run_id, hold)| Some((*run_id, hold.epoch?)))
            .collect();
        if claims.is_empty() {
            return true;
        }
        match leases.renew(&self.worker, &claims, self.lease).await {
            Ok(renewals) => {
                for renewal in renewals {
                    match renewal.status {
                        RenewalStatus::Held { cancelled: true, .. } => self.held.cancel(renewal.run_id),
                        RenewalStatus::Held { paused, .. } => {
                            figures::count_lease(LeaseAction::Renew, "ok", 1);
                            if paused {
                                self.held.pause(renewal.run_id);
                            }
                            self.confirm(renewal.run_id, asked);
                        }
                        RenewalStatus::Lost if breakage::is(Breakage::NoFencing) => {}
                        RenewalStatus::Lost => {
                            tracing::warn!(run_id = %renewal.run_id, "lease lost, the running step is stopped");
                            metrics::counter!("agent_leases_lost_total").increment(1);
                            figures::count_lease(LeaseAction::Renew, "lost", 1);
                            self.held.cancel(renewal.run_id);
                        }
                    }
                }
            }
            Err(error) => {
                figures::count_lease(LeaseAction::Renew, "error", claims.len() as u64);
                tracing::warn!(error = %with_sources(&error), "leases not renewed in the run store");
                return false;
            }
        }
        true
    }

    async fn renew_in_redis(&self, renewer: &mut Renewer, held: &[(RunId, Hold)]) -> bool {
        if held.is_empty() && !renewer.is_connected() {
            // Right after the start, or Redis is away: nothing can be lost, and the connection says so itself.
            return true;
        }
        let asked = Instant::now();
        let claims: Vec<_> = held.iter().map(|(_, hold)| hold.to_renew()).collect();
        match renewer.renew(&claims, self.lease).await {
            Ok(renewals) => {
                for ((run_id, hold), renewal) in held.iter().zip(renewals) {
                    match renewal {
                        queue::Renewal::Held => {
                            // What settled while the renewal was under way is told by the next one.
                            self.held
                                .update(*run_id, |now| now.reported = now.reported.max(hold.settled));
                            self.confirm(*run_id, asked);
                        }
                        queue::Renewal::Readopted => {
                            metrics::counter!("agent_orphans_healed_total").increment(1);
                            self.confirm(*run_id, asked);
                        }
                        // Postgres decides; a stale entry alone is no reason to stop.
                        queue::Renewal::Lost => tracing::debug!(run_id = %run_id, "queue entry is not ours"),
                    }
                }
            }
            Err(error) => {
                tracing::warn!(error = %with_sources(&error), "leases not renewed in redis");
                return false;
            }
        }
        true
    }

    fn confirm(&self, run_id: RunId, asked: Instant) {
        self.held
            .update(run_id, |hold| hold.confirmed = hold.confirmed.max(asked));
    }

    /// Stops what neither store confirmed in time. Beside the renewals, which may hang.
    async fn fence(&self) {
        loop {
            self.give_up_unconfirmed();
            tokio::time::sleep(FENCE_EVERY).await;
        }
    }

    fn give_up_unconfirmed(&self) {
        if breakage::is(Breakage::NoFencing) {
            return;
        }
        let limit = self.lease.saturating_sub(LEASE_MARGIN);
        for (run_id, hold) in self.held.all() {
            if hold.confirmed.elapsed() >= limit && !hold.cancel.is_cancelled() {
                tracing::error!(run_id = %run_id, "no store confirmed the lease, the run is given up");
                metrics::counter!("agent_leases_lost_total").increment(1);
                hold.cancel.cancel();
            }
        }
    }
}

/// Returns when the worker's runtime has run none of its tasks for [`BLOCKED_LOOKS`] looks. Looks are counted and not
/// seconds, so that a process that was frozen and woke up gets its full time.
async fn until_blocked(progress: &Progress) {
    let mut last = progress.beat_of_runtime();
    let mut same = 0;
    while same < BLOCKED_LOOKS {
        tokio::time::sleep(LOOK_EVERY).await;
        let beat = progress.beat_of_runtime();
        same = if beat == last { same + 1 } else { 0 };
        last = beat;
    }
}

/// A lease that is renewed for a runtime that does nothing would keep its runs from everybody for ever. Nothing can be
/// handed back either, so the process ends and the leases run out.
fn die_blocked() {
    tracing::error!("the runtime is blocked, the process ends");
    std::process::exit(i32::from(exit::INTERNAL));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_runtime_is_blocked_when_nothing_ran_in_thirty_looks_in_a_row() {
        let progress = Progress::default();
        let beating = async {
            for _ in 0..3 {
                tokio::time::sleep(LOOK_EVERY * (BLOCKED_LOOKS - 1)).await;
                progress.beat();
            }
        };
        let begun = tokio::time::Instant::now();
        tokio::join!(beating, until_blocked(&progress));
        let beaten = LOOK_EVERY * (BLOCKED_LOOKS - 1) * 3;
        let waited = begun.elapsed();
        assert!(waited >= beaten + LOOK_EVERY * (BLOCKED_LOOKS - 1), "{waited:?}");
    }
}
