//! Background work of every worker: idempotent, without input, no leader. What one worker does at a time the others need
//! not do; doing it twice changes nothing.

use crate::kubernetes::reaper::Reaper;
use crate::log::{publish, with_sources};
use crate::reconcile::{ReconcileError, Reconciler};
use crate::retention::{RetentionError, Sweeper, Swept};
use domain::breakage::{self, Breakage};
use domain::command::Expiry;
use domain::ids::WorkerId;
use domain::{Clock, Ids, WriteMode};
use queue::{AUDIT_INTERVAL, Maintenance, Queue, QueueError, SWEEP_INTERVAL};
use runs::{CommandError, Orchestration, Outbox, StoreError, Sweep};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often the outbox is looked at, and how old a row must be: younger ones are on the fast path.
const RELAY_INTERVAL: Duration = Duration::from_millis(250);
const RELAY_AGE: Duration = Duration::from_secs(1);
const RELAY_BATCH: u32 = 500;
/// How often runs and lists are compared; a change of Redis' identity is looked for every second.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(10);
const IDENTITY_INTERVAL: Duration = Duration::from_secs(1);
/// Of all workers one makes the regular pass in this time.
const RECONCILE_TURN: Duration = Duration::from_secs(9);
/// A pass over a long queue is followed by a pause this many times as long.
const RECONCILE_REST: u32 = 4;
/// How often time limits are looked at.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(2);
const EXPIRE_BATCH: u32 = 100;
/// How often files past their time are looked for.
const RETENTION_INTERVAL: Duration = Duration::from_mins(1);
/// How often the cluster's tool Jobs are looked through.
const REAP_INTERVAL: Duration = Duration::from_secs(5);
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
    #[error("files past their time were not deleted")]
    Retention(#[from] RetentionError),
    #[error("comparison failed")]
    Reconcile(#[from] ReconcileError),
}

/// When the reconciler works next.
struct Pace {
    /// Redis' data set at the last pass.
    known: Option<String>,
    since: Duration,
    pause: Duration,
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
    pub write_mode: WriteMode,
    pub healing: Healing,
    pub retention: Sweeper,
    /// Where tools run in a cluster.
    pub reaper: Option<Arc<Reaper>>,
}

/// What sweep, audit and reconciler of one worker share.
#[derive(Debug, Clone)]
pub struct Healing {
    maintenance: Arc<Mutex<Maintenance>>,
    /// An audit has forgotten jobs that are to be pushed again.
    reconcile_soon: Arc<AtomicBool>,
}

impl Healing {
    pub fn new(queue: &Queue) -> Self {
        Self {
            maintenance: Arc::new(Mutex::new(queue.maintenance())),
            reconcile_soon: Arc::default(),
        }
    }
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
        tokio::join!(
            every(BEAT_INTERVAL, "heartbeat", stop.clone(), || this.beat()),
            every(SWEEP_INTERVAL, "sweep", stop.clone(), || this.sweep()),
            every(AUDIT_INTERVAL, "audit", stop.clone(), || this.audit()),
            every(RELAY_INTERVAL, "outbox relay", stop.clone(), || this.relay()),
            every(EXPIRE_INTERVAL, "time limits", stop.clone(), || this.expire()),
            every(RETENTION_INTERVAL, "retention", stop.clone(), || this.retain()),
            every(REAP_INTERVAL, "tool jobs", stop.clone(), || this.reap()),
            this.reconcile_loop(stop.clone()),
        );
        Ok(())
    }

    async fn beat(&self) -> Result<(), UpkeepError> {
        Ok(self.queue.beat(&self.worker, self.clock.now()).await?)
    }

    async fn sweep(&self) -> Result<(), UpkeepError> {
        if breakage::is(Breakage::NoReaper) {
            return Ok(());
        }
        if let Some(swept) = self.healing.maintenance.lock().await.sweep().await?
            && !swept.is_quiet()
        {
            tracing::info!(swept = ?swept, "queue healed");
            metrics::counter!("agent_leases_reclaimed_total").increment(swept.reclaimed);
            metrics::counter!("agent_orphans_healed_total")
                .increment(swept.orphans + swept.restored + swept.dropped);
        }
        Ok(())
    }

    /// Deletes tool Jobs that nobody needs any more.
    async fn reap(&self) -> Result<(), UpkeepError> {
        match &self.reaper {
            Some(reaper) => Ok(reaper.pass().await?),
            None => Ok(()),
        }
    }

    async fn audit(&self) -> Result<(), UpkeepError> {
        let mended = self.healing.maintenance.lock().await.audit().await?;
        if mended > 0 {
            tracing::info!(mended, "queue audit mended entries");
            metrics::counter!("agent_orphans_healed_total").increment(mended);
            self.healing.reconcile_soon.store(true, Ordering::Relaxed);
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
        if !self.write_mode.may_write() {
            return Ok(());
        }
        self.expire_approvals().await?;
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

    /// What nobody decided in time counts as rejected; the relay pushes the jobs of the runs that go on.
    async fn expire_approvals(&self) -> Result<(), UpkeepError> {
        for run_id in self.sweep.overdue_approvals(EXPIRE_BATCH).await? {
            match self.orchestration.expire_interrupts(run_id).await {
                Ok(committed) => {
                    publish(&self.queue, &committed.events).await;
                    tracing::info!(run_id = %run_id, limit = "approval", "time limit ran out");
                }
                // Decided or stopped meanwhile.
                Err(CommandError::Rejected(_) | CommandError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Deletes files past their time.
    async fn retain(&self) -> Result<(), UpkeepError> {
        if !self.write_mode.may_write() {
            return Ok(());
        }
        let swept = self.retention.sweep().await?;
        if swept != Swept::default() {
            tracing::info!(swept = ?swept, "files of ended runs deleted");
        }
        Ok(())
    }

    /// Compares runs and lists now and then, and at once when Redis is another one than before.
    async fn reconcile_loop(&self, stop: CancellationToken) {
        let mut pace = Pace {
            known: None,
            since: RECONCILE_INTERVAL,
            pause: RECONCILE_INTERVAL,
        };
        let mut tick = interval(IDENTITY_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            pace.since += IDENTITY_INTERVAL;
            if let Err(error) = self.reconcile_when_due(&mut pace).await {
                tracing::debug!(error = %with_sources(&error), "reconcile failed");
            }
        }
    }

    async fn reconcile_when_due(&self, pace: &mut Pace) -> Result<(), UpkeepError> {
        let present = match self.queue.incarnation().await? {
            Some(id) => id,
            None => self.queue.set_incarnation(&self.ids.uuid().to_string()).await?,
        };
        let changed = pace.known.as_ref() != Some(&present);
        let wanted = self.healing.reconcile_soon.swap(false, Ordering::Relaxed);
        if !changed && !wanted && pace.since < pace.pause {
            return Ok(());
        }
        if changed && pace.known.is_some() {
            tracing::warn!("redis lost its data, queue entries are rebuilt");
        }
        // One worker's regular pass is enough for all.
        if changed || wanted || self.queue.is_my_turn("reconcile", RECONCILE_TURN).await? {
            let begun = Instant::now();
            self.reconcile().await?;
            pace.pause = RECONCILE_INTERVAL.max(begun.elapsed() * RECONCILE_REST);
        }
        pace.known = Some(present);
        pace.since = Duration::ZERO;
        Ok(())
    }

    /// Every run has its entry and every entry its run, afterwards.
    async fn reconcile(&self) -> Result<(), UpkeepError> {
        let passed = self.reconciler().run().await?;
        for (kind, count) in &passed.mended {
            metrics::counter!("agent_reconciler_differences_total", "kind" => *kind).increment(*count as u64);
        }
        if !passed.mended.is_empty() {
            tracing::info!(mended = ?passed.mended, "queue entries put right");
        }
        if passed.lists_disagree {
            self.healing.maintenance.lock().await.look_closely();
        }
        Ok(())
    }

    fn reconciler(&self) -> Reconciler {
        Reconciler {
            queue: self.queue.clone(),
            sweep: self.sweep.clone(),
            clock: self.clock.clone(),
        }
    }
}
