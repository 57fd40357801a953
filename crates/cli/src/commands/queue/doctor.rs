//! `agentctl queue doctor`: do runs and queue agree, and is the queue whole?
//!
//! Nothing is changed without `--fix`. The queue moves while it is read, so a finding is one that two looks, a second apart,
//! both show. Mending is the workers' own code, which checks everything again.

use super::findings::{Finding, MAX_SHOWN};
use super::stats::living_workers;
use super::{failed, store_failed};
use crate::console::{Console, Style, one_line};
use crate::failure::{Code, Failure};
use domain::{Clock, JobId, RunId, RunStatus, SystemClock};
use queue::{Census, Element, HeldLease, ListName, Queue};
use runs::{Db, LiveRun, Outbox, Sweep};
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use worker::reconcile::{Mended, ReconcileError, Reconciler};

/// Between the two looks; commands in work are through by then.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// A committed job is in Redis long before.
const OUTBOX_AGE: Duration = Duration::from_secs(30);
const OUTBOX_BATCH: u32 = 500;
/// One repair may bring another to light: an element without a lease is first put in a line, then judged.
const MOST_ROUNDS: usize = 5;
/// Sweeps of one round, and the pause that their guard asks for.
const SWEEPS: usize = 3;
const SWEEP_PAUSE: Duration = Duration::from_millis(500);

/// What the command line asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) fix: bool,
    pub(super) as_json: bool,
}

struct Examination {
    queue: Queue,
    sweep: Sweep,
    outbox: Outbox,
    reconciler: Reconciler,
}

/// `agentctl queue doctor`
pub(super) async fn doctor(console: Console, queue: Queue, db: &Db, how: How) -> Result<Code, Failure> {
    let examination = Examination::new(queue, db);
    let mut findings = examination.confirmed().await?;
    for finding in &findings {
        show(console, finding, how)?;
    }
    if how.fix && !findings.is_empty() {
        for _ in 0..MOST_ROUNDS {
            let done = examination.mend(&findings).await?;
            done.iter().try_for_each(|line| console.out(&report(line, how)))?;
            findings = examination.confirmed().await?;
            if findings
                .iter()
                .all(|finding| matches!(finding, Finding::Server(_)))
            {
                break;
            }
        }
        findings
            .iter()
            .try_for_each(|left| console.out(&report(&format!("left: {}", left.words().0), how)))?;
    }
    console.note(&match findings.len() {
        0 => "runs and queue agree".to_owned(),
        left if how.fix => format!("{left} findings are left"),
        found => format!("{found} findings; `agentctl queue doctor --fix` mends them"),
    });
    Ok(if findings.is_empty() {
        Code::Ok
    } else {
        Code::Failed
    })
}

/// One line for `agentctl doctor`.
pub async fn summary(queue: Queue, db: &Db) -> Result<String, Failure> {
    let findings = Examination::new(queue, db).confirmed().await?;
    if findings.is_empty() {
        return Ok("runs and queue agree".to_owned());
    }
    let mut kinds: Vec<&str> = findings.iter().map(Finding::kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    Err(
        Failure::new(format!("{} findings: {}", findings.len(), kinds.join(", ")))
            .fix("`agentctl queue doctor` shows them, `agentctl queue doctor --fix` mends them"),
    )
}

fn report(line: &str, how: How) -> String {
    if how.as_json {
        json!({"did": line}).to_string()
    } else {
        line.to_owned()
    }
}

fn show(console: Console, finding: &Finding, how: How) -> Result<(), Failure> {
    let (job_id, run_id) = finding.ids();
    let (what, fix) = finding.words();
    if how.as_json {
        let line =
            json!({"kind": finding.kind(), "job_id": job_id, "run_id": run_id, "what": what, "fix": fix});
        return console.out(&line.to_string());
    }
    let job = job_id.map(|id| format!("  job {id}")).unwrap_or_default();
    let run = run_id.map(|id| format!("  run {id}")).unwrap_or_default();
    let kind = console.paint(Style::Red, finding.kind());
    console.out(&format!("{kind}{job}{run}  {}", one_line(&what, MAX_SHOWN)))?;
    console.out(&format!("    fix: {fix}"))
}

fn compared(error: &ReconcileError) -> Failure {
    match error {
        ReconcileError::Queue(error) => failed(error),
        ReconcileError::Store(error) => store_failed(error),
    }
}

impl Examination {
    fn new(queue: Queue, db: &Db) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let sweep = Sweep::new(db.clone(), clock.clone());
        Self {
            reconciler: Reconciler {
                queue: queue.clone(),
                sweep: sweep.clone(),
                clock,
            },
            outbox: Outbox::new(db.clone()),
            sweep,
            queue,
        }
    }

    /// What two looks both show.
    async fn confirmed(&self) -> Result<Vec<Finding>, Failure> {
        let first: HashSet<String> = self.look().await?.iter().map(Finding::key).collect();
        if first.is_empty() {
            return Ok(Vec::new());
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let second = self.look().await?;
        Ok(second
            .into_iter()
            .filter(|finding| first.contains(&finding.key()))
            .collect())
    }

    async fn look(&self) -> Result<Vec<Finding>, Failure> {
        let redis = |error: queue::QueueError| failed(&error);
        let postgres = |error: runs::StoreError| store_failed(&error);
        let census = self.queue.census().await.map_err(redis)?;
        let mut found: Vec<Finding> = census
            .faults()
            .into_iter()
            .map(|fault| {
                let run_id = fault.job_id().and_then(|id| census.run_of(&id));
                Finding::Fault { fault, run_id }
            })
            .collect();
        found.extend(self.unwanted(&census).await.map_err(postgres)?);
        found.extend(self.dead_workers(&census).await?);
        let differences = self
            .reconciler
            .differences()
            .await
            .map_err(|error| compared(&error))?;
        found.extend(differences.into_iter().map(Finding::Difference));
        let stuck = self
            .outbox
            .stuck(OUTBOX_AGE, OUTBOX_BATCH)
            .await
            .map_err(postgres)?;
        found.extend(stuck.into_iter().map(Finding::Outbox));
        if let Ok(server) = self.queue.server_report().await {
            found.extend(
                server
                    .faults()
                    .into_iter()
                    .chain(server.warnings())
                    .map(Finding::Server),
            );
        }
        Ok(found)
    }

    /// Elements put in a line by hand whose runs do not want them; a worker would drop them at its next claim.
    async fn unwanted(&self, census: &Census) -> Result<Vec<Finding>, runs::StoreError> {
        let is_waiting = |element: &&Element| {
            !element.known && !matches!(element.list, ListName::Processing | ListName::Failed)
        };
        let elements: Vec<&Element> = census.elements.iter().filter(is_waiting).collect();
        let ids: Vec<RunId> = elements.iter().filter_map(|element| element.run_id).collect();
        let runs = self.sweep.runs(&ids).await?;
        let runs: HashMap<RunId, LiveRun> = runs.into_iter().map(|run| (run.run_id, run)).collect();
        let judged = elements.into_iter().filter_map(|element| {
            let why = match runs.get(&element.run_id?) {
                None => "but no run has this id".to_owned(),
                // It counts as a start.
                Some(run) if run.status == RunStatus::Created => return None,
                Some(run) if run.status.needs_job() => "but its run has a job of its own".to_owned(),
                Some(run) => format!("but its run is {}", run.status),
            };
            Some(Finding::Unwanted {
                element: element.clone(),
                why,
            })
        });
        Ok(judged.collect())
    }

    async fn dead_workers(&self, census: &Census) -> Result<Vec<Finding>, Failure> {
        let alive: HashSet<String> = living_workers(&self.queue).await?.into_iter().collect();
        let orphaned = |lease: &HeldLease| {
            !alive
                .iter()
                .any(|worker| stamp_of(worker) == stamp_of(lease.worker()))
        };
        let leases: Vec<HeldLease> = census.leases().into_iter().filter(orphaned).collect();
        let ids: Vec<RunId> = leases.iter().filter_map(|lease| lease.run_id).collect();
        let runs = self
            .sweep
            .runs(&ids)
            .await
            .map_err(|error| store_failed(&error))?;
        let held: HashSet<RunId> = runs
            .iter()
            .filter(|run| run.lease_alive)
            .map(|run| run.run_id)
            .collect();
        let is_held = |lease: &HeldLease| lease.run_id.is_some_and(|run_id| held.contains(&run_id));
        Ok(leases
            .into_iter()
            .filter(|lease| !is_held(lease))
            .map(Finding::DeadWorker)
            .collect())
    }

    /// One round of mending by the workers' code; what was done, a line each.
    async fn mend(&self, findings: &[Finding]) -> Result<Vec<String>, Failure> {
        let redis = |error: queue::QueueError| failed(&error);
        let mut done = Vec::new();
        let mut faults = Vec::new();
        for finding in findings {
            match finding {
                Finding::Fault { fault, .. } => faults.push(fault.clone()),
                Finding::Unwanted { element, .. } => {
                    if self.queue.drop_element(element).await.map_err(redis)? {
                        done.push(format!("removed an element from {}", element.list));
                    }
                }
                Finding::DeadWorker(lease) => {
                    if self.queue.expire_lease(lease).await.map_err(redis)? {
                        done.push(format!("ended the lease of job {}", lease.job_id));
                    }
                }
                Finding::Difference(_) | Finding::Outbox(_) | Finding::Server(_) => {}
            }
        }
        let mended = self.queue.maintenance().mend(&faults).await.map_err(redis)?;
        done.extend((mended > 0).then(|| format!("audit: {mended} mended")));
        done.extend(self.swept().await?);
        done.extend(self.relayed().await?);
        let mut mended = Mended::default();
        let differences = self
            .reconciler
            .differences()
            .await
            .map_err(|error| compared(&error))?;
        self.reconciler
            .mend(&differences, &mut mended)
            .await
            .map_err(|error| compared(&error))?;
        done.extend(
            mended
                .into_iter()
                .map(|(kind, count)| format!("reconciler: {count} {kind}")),
        );
        Ok(done)
    }

    async fn swept(&self) -> Result<Vec<String>, Failure> {
        let maintenance = self.queue.maintenance();
        let mut done = Vec::new();
        for _ in 0..SWEEPS {
            if let Some(swept) = maintenance
                .sweep()
                .await
                .map_err(|error| failed(&error))?
                .filter(|swept| !swept.is_quiet())
            {
                done.push(format!(
                    "sweep: {} reclaimed, {} orphans queued, {} put back, {} leases removed",
                    swept.reclaimed, swept.orphans, swept.restored, swept.dropped
                ));
            }
            tokio::time::sleep(SWEEP_PAUSE).await;
        }
        Ok(done)
    }

    async fn relayed(&self) -> Result<Option<String>, Failure> {
        let postgres = |error: runs::StoreError| store_failed(&error);
        let due = self
            .outbox
            .due(OUTBOX_AGE, OUTBOX_BATCH)
            .await
            .map_err(postgres)?;
        if due.is_empty() {
            return Ok(None);
        }
        let pushed = self.queue.push_all(&due).await.map_err(|error| failed(&error))?;
        let ids: Vec<JobId> = due.iter().map(|job| job.job_id).collect();
        self.outbox.sent(&ids).await.map_err(postgres)?;
        Ok(Some(format!("outbox: {} rows, {pushed} pushed", due.len())))
    }
}

/// A worker's id as the stamp of a claim has it.
fn stamp_of(worker: &str) -> String {
    worker.replace(char::is_whitespace, "_")
}
