//! Background work of every worker: idempotent, without input, no leader. What one worker does at a time the others need
//! not do; doing it twice changes nothing.

use crate::log::{publish, with_sources};
use domain::command::Expiry;
use domain::ids::WorkerId;
use domain::{Clock, Ids, Job};
use queue::{AUDIT_INTERVAL, Maintenance, Queue, QueueError, SWEEP_INTERVAL};
use runs::{CommandError, LiveRun, Orchestration, Outbox, StoreError, Sweep};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often the outbox is looked at, and how old a row must be: younger ones are on the fast path.
const RELAY_INTERVAL: Duration = Duration::from_millis(250);
const RELAY_AGE: Duration = Duration::from_secs(1);
const RELAY_BATCH: u32 = 500;
/// How often runs and lists are compared; a change of Redis' identity is looked for every second.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(10);
const IDENTITY_INTERVAL: Duration = Duration::from_secs(1);
const RECONCILE_PAGE: u32 = 1000;
/// How often time limits are looked at.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(2);
const EXPIRE_BATCH: u32 = 100;
/// How often the worker notes that it lives.
const BEAT_INTERVAL: Duration = Duration::from_secs(3);

/// A failed piece of background work; it is tried again at the next tick.
#[derive(Debug, thiserror::Error)]
enum UpkeepError {
    #[error("redis failed")]
    Queue(#[from] QueueError),
    #[error("run store failed")]
    Store(#[from] StoreError),
    #[error("command failed")]
    Command(#[from] CommandError),
}

/// Everything upkeep needs.
#[derive(Debug, Clone)]
pub struct Upkeep {
    pub worker: WorkerId,
    pub queue: Queue,
    pub orchestration: Orchestration,
    pub outbox: Outbox,
    pub sweep: Sweep,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub waiting_timeout: Duration,
}

/// Calls `work` at every tick until `stop`; failures are logged once per series.
async fn every<F, Fut>(period: Duration, what: &'static str, stop: CancellationToken, mut work: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<(), UpkeepError>>,
{
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        match work().await {
            Ok(()) => failing = false,
            Err(error) if failing => {
                tracing::debug!(what, error = %with_sources(&error), "upkeep still fails");
            }
            Err(error) => {
                failing = true;
                tracing::warn!(what, error = %with_sources(&error), "upkeep failed");
            }
        }
    }
}

impl Upkeep {
    /// Runs all of it until `stop` fires.
    pub async fn run(self, stop: CancellationToken) -> Result<(), std::convert::Infallible> {
        let this = &self;
        let maintenance = tokio::sync::Mutex::new(self.queue.maintenance());
        let maintenance = &maintenance;
        tokio::join!(
            every(BEAT_INTERVAL, "heartbeat", stop.clone(), || this.beat()),
            every(SWEEP_INTERVAL, "sweep", stop.clone(), || this.sweep(maintenance)),
            every(AUDIT_INTERVAL, "audit", stop.clone(), || this.audit(maintenance)),
            every(RELAY_INTERVAL, "outbox relay", stop.clone(), || this.relay()),
            every(EXPIRE_INTERVAL, "time limits", stop.clone(), || this.expire()),
            this.reconcile_loop(stop.clone()),
        );
        Ok(())
    }

    async fn beat(&self) -> Result<(), UpkeepError> {
        Ok(self.queue.beat(&self.worker, self.clock.now()).await?)
    }

    async fn sweep(&self, maintenance: &tokio::sync::Mutex<Maintenance>) -> Result<(), UpkeepError> {
        if let Some(swept) = maintenance.lock().await.sweep().await?
            && !swept.is_quiet()
        {
            tracing::info!(swept = ?swept, "queue healed");
            metrics::counter!("agent_leases_reclaimed_total").increment(swept.reclaimed);
            metrics::counter!("agent_orphans_healed_total")
                .increment(swept.orphans + swept.restored + swept.dropped);
        }
        Ok(())
    }

    async fn audit(&self, maintenance: &tokio::sync::Mutex<Maintenance>) -> Result<(), UpkeepError> {
        let mended = maintenance.lock().await.audit().await?;
        if mended > 0 {
            tracing::info!(mended, "queue audit mended entries");
            metrics::counter!("agent_orphans_healed_total").increment(mended);
        }
        Ok(())
    }

    /// Pushes what the fast path after the commit missed.
    async fn relay(&self) -> Result<(), UpkeepError> {
        let due = self.outbox.due(RELAY_AGE, RELAY_BATCH).await?;
        if due.is_empty() {
            return Ok(());
        }
        let pushed = self.queue.push_all(&due).await?;
        let ids: Vec<_> = due.iter().map(|job| job.job_id).collect();
        self.outbox.sent(&ids).await?;
        tracing::info!(due = due.len(), pushed, "outbox relayed");
        Ok(())
    }

    async fn expire(&self) -> Result<(), UpkeepError> {
        for overdue in self.sweep.overdue(EXPIRE_BATCH, self.waiting_timeout).await? {
            match self.orchestration.expire(overdue.run_id, overdue.expiry).await {
                Ok(committed) => {
                    publish(&self.queue, &committed.events).await;
                    if let Some(job_id) = committed.remove_job {
                        self.queue.remove(&job_id).await?;
                    }
                    self.queue.signal(overdue.run_id).await?;
                    let limit = if overdue.expiry == Expiry::RunDeadline {
                        "run"
                    } else {
                        "waiting"
                    };
                    tracing::info!(run_id = %overdue.run_id, limit, "time limit ran out");
                }
                // It ended or moved on meanwhile.
                Err(CommandError::Rejected(_) | CommandError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Compares runs and lists now and then, and at once when Redis is another one than before.
    async fn reconcile_loop(&self, stop: CancellationToken) {
        let mut known: Option<String> = None;
        let mut since = RECONCILE_INTERVAL;
        let known = &mut known;
        let since = &mut since;
        let mut tick = interval(IDENTITY_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            *since += IDENTITY_INTERVAL;
            if let Err(error) = self.reconcile_when_due(known, since).await {
                tracing::debug!(error = %with_sources(&error), "reconcile failed");
            }
        }
    }

    async fn reconcile_when_due(
        &self,
        known: &mut Option<String>,
        since: &mut Duration,
    ) -> Result<(), UpkeepError> {
        let present = self.queue.incarnation().await?;
        let present = match present {
            Some(id) => id,
            None => self.queue.set_incarnation(&self.ids.uuid().to_string()).await?,
        };
        let changed = known.as_ref() != Some(&present);
        if !changed && *since < RECONCILE_INTERVAL {
            return Ok(());
        }
        if changed && known.is_some() {
            tracing::warn!("redis lost its data, queue entries are rebuilt");
        }
        self.reconcile().await?;
        *known = Some(present);
        *since = Duration::ZERO;
        Ok(())
    }

    /// Every run that needs a job and is held by nobody gets its entry back.
    async fn reconcile(&self) -> Result<(), UpkeepError> {
        let mut after = None;
        loop {
            let page = self.sweep.live_page(after, RECONCILE_PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.run_id);
            let unheld: Vec<(&LiveRun, &Job)> = page
                .iter()
                .filter(|run| !run.lease_alive)
                .filter_map(|run| Some((run, run.job.as_ref()?)))
                .collect();
            let ids: Vec<_> = unheld.iter().map(|(_, job)| job.job_id).collect();
            let missing = self.queue.missing(&ids).await?;
            for (run, job) in unheld
                .into_iter()
                .filter(|(_, job)| missing.contains(&job.job_id))
            {
                self.push_again(run, job).await?;
            }
        }
    }

    async fn push_again(&self, run: &LiveRun, job: &Job) -> Result<(), UpkeepError> {
        let pushed = match run.next_retry_at {
            Some(at) if at > self.clock.now() => self.queue.push_retry(job, at, "").await?,
            _ => self.queue.push(job).await?,
        };
        if pushed {
            metrics::counter!("agent_reconciler_pushed_total").increment(1);
            tracing::info!(run_id = %run.run_id, job_id = %job.job_id, "missing queue entry pushed again");
        }
        Ok(())
    }
}
