//! Renewal of all leases from an OS thread of its own, with its own runtime and connections, so that a busy or
//! blocked main runtime loses none.
//!
//! A run is held twice: by the lease columns of its row (the truth, with the epoch) and by `jobs:lease` (what the
//! reaper looks at). Taking a run over needs both to have run out, so one store may be away without harm. When neither
//! confirmed a lease for almost its whole length the run is given up here, before another worker can own it.

use crate::held::{HeldRuns, Hold};
use crate::log::with_sources;
use domain::SystemIds;
use domain::ids::{RunId, WorkerId};
use queue::{RedisOptions, Renewer};
use runs::{Db, DbOptions, Leases, RenewalStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A lease is given up this long before it would run out.
const MARGIN: Duration = Duration::from_secs(1);

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
    /// Starts the thread; it ends when `stop` fires.
    pub fn start(self) -> std::io::Result<std::thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("lease".to_owned())
            .spawn(move || {
                if let Err(error) = runtime.block_on(self.run()) {
                    tracing::error!(error = %error, "lease thread cannot work");
                }
            })
    }

    async fn run(self) -> anyhow::Result<()> {
        let leases = Leases::new(Db::connect(&DbOptions {
            pool_size: 1,
            ..self.db.clone()
        })?);
        let mut renewer = Renewer::connect(&self.redis, self.worker.clone(), Arc::new(SystemIds))?;
        let mut tick = tokio::time::interval(self.every);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                _ = tick.tick() => self.renew(&leases, &mut renewer).await,
            }
        }
    }

    async fn renew(&self, leases: &Leases, renewer: &mut Renewer) {
        let held = self.held.all();
        let limit = self
            .every
            .saturating_sub(Duration::from_millis(200))
            .max(Duration::from_secs(1));
        let (in_postgres, in_redis) = tokio::join!(
            tokio::time::timeout(limit, self.renew_in_postgres(leases, &held)),
            tokio::time::timeout(limit, self.renew_in_redis(renewer, &held)),
        );
        if in_postgres.is_err() || in_redis.is_err() {
            metrics::counter!("agent_lease_renewals_missed_total").increment(1);
        }
        self.give_up_unconfirmed();
    }

    async fn renew_in_postgres(&self, leases: &Leases, held: &[(RunId, Hold)]) {
        let claims: Vec<(RunId, i64)> = held
            .iter()
            .filter_map(|(run_id, hold)| Some((*run_id, hold.epoch?)))
            .collect();
        if claims.is_empty() {
            return;
        }
        match leases.renew(&self.worker, &claims, self.lease).await {
            Ok(renewals) => {
                for renewal in renewals {
                    match renewal.status {
                        RenewalStatus::Held { cancelled: true, .. } => self.held.cancel(renewal.run_id),
                        RenewalStatus::Held { paused, .. } => {
                            if paused {
                                self.held.pause(renewal.run_id);
                            }
                            self.confirm(renewal.run_id);
                        }
                        RenewalStatus::Lost => {
                            tracing::warn!(run_id = %renewal.run_id, "lease lost, the running step is stopped");
                            metrics::counter!("agent_leases_lost_total").increment(1);
                            self.held.cancel(renewal.run_id);
                        }
                    }
                }
            }
            Err(error) => {
                tracing::warn!(error = %with_sources(&error), "leases not renewed in the run store");
            }
        }
    }

    async fn renew_in_redis(&self, renewer: &mut Renewer, held: &[(RunId, Hold)]) {
        if held.is_empty() && !renewer.is_connected() {
            // Right after the start, or Redis is away: nothing can be lost, and the connection says so itself.
            return;
        }
        let claims: Vec<_> = held.iter().map(|(_, hold)| hold.to_renew()).collect();
        match renewer.renew(&claims, self.lease).await {
            Ok(renewals) => {
                for ((run_id, hold), renewal) in held.iter().zip(renewals) {
                    match renewal {
                        queue::Renewal::Held => {
                            // What settled while the renewal was under way is told by the next one.
                            self.held
                                .update(*run_id, |now| now.reported = now.reported.max(hold.settled));
                            self.confirm(*run_id);
                        }
                        queue::Renewal::Readopted => {
                            metrics::counter!("agent_orphans_healed_total").increment(1);
                            self.confirm(*run_id);
                        }
                        // Postgres decides; a stale entry alone is no reason to stop.
                        queue::Renewal::Lost => tracing::debug!(run_id = %run_id, "queue entry is not ours"),
                    }
                }
            }
            Err(error) => tracing::warn!(error = %with_sources(&error), "leases not renewed in redis"),
        }
    }

    fn confirm(&self, run_id: RunId) {
        self.held.update(run_id, |hold| hold.confirmed = Instant::now());
    }

    fn give_up_unconfirmed(&self) {
        let limit = self.lease.saturating_sub(MARGIN);
        for (run_id, hold) in self.held.all() {
            if hold.confirmed.elapsed() >= limit && !hold.cancel.is_cancelled() {
                tracing::error!(run_id = %run_id, "no store confirmed the lease, the run is given up");
                metrics::counter!("agent_leases_lost_total").increment(1);
                hold.cancel.cancel();
            }
        }
    }
}
