//! Jobs that nobody needs any more: deleted one by one, by uid, by every worker, without a leader.
//!
//! Never one that can still be adopted: as long as its run is active somebody comes and follows it.

use super::seen::JobSeen;
use super::{KubernetesSandbox, figures};
use domain::RunStatus;
use domain::ids::{RunId, StepId};
use domain::run::StepStatus;
use runs::{StoreError, Sweep};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What the store knows of a Job's run and step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    run: RunStatus,
    is_held: bool,
    step: Option<StepStatus>,
}

/// Looks through the Jobs of the namespace.
#[derive(Debug)]
pub struct Reaper {
    sandbox: KubernetesSandbox,
    sweep: Sweep,
    lease: Duration,
    /// Since when a Job's run has had no worker, by uid.
    unheld: Mutex<HashMap<String, Instant>>,
}

impl Reaper {
    pub fn new(sandbox: KubernetesSandbox, sweep: Sweep, lease: Duration) -> Self {
        Self {
            sandbox,
            sweep,
            lease,
            unheld: Mutex::default(),
        }
    }

    /// One pass.
    ///
    /// # Errors
    /// When the runs cannot be asked for; then nothing is deleted.
    pub async fn pass(&self) -> Result<(), StoreError> {
        let Some(cluster) = self.sandbox.cluster().filter(|cluster| cluster.world.is_heard()) else {
            return Ok(());
        };
        let jobs = cluster.world.all_jobs().into_iter();
        let jobs: Vec<JobSeen> = jobs
            .filter(|job| !job.is_deleted && !self.sandbox.is_followed(&job.name))
            .collect();
        let known = self.known(&jobs).await?;
        for job in self.needless(&jobs, &known) {
            match cluster.calls.delete_job(&job.name, &job.uid).await {
                Ok(()) => {
                    tracing::info!(
                        job = job.name,
                        uid = job.uid,
                        "a tool's Job that nobody needs is deleted"
                    );
                    figures::reaped();
                }
                Err(error) => {
                    tracing::warn!(job = job.name, %error, "a tool's Job that nobody needs is not deleted");
                }
            }
        }
        Ok(())
    }

    /// By uid; nothing of Jobs whose run is not in our store.
    async fn known(&self, jobs: &[JobSeen]) -> Result<HashMap<String, Known>, StoreError> {
        let run_ids: HashSet<RunId> = jobs.iter().filter_map(|job| job.run_id).collect();
        let step_ids: HashSet<StepId> = jobs.iter().filter_map(|job| job.step_id).collect();
        let runs = self.sweep.runs(&run_ids.into_iter().collect::<Vec<_>>()).await?;
        let steps = self
            .sweep
            .steps(&step_ids.into_iter().collect::<Vec<_>>())
            .await?;
        let runs: HashMap<RunId, _> = runs.into_iter().map(|run| (run.run_id, run)).collect();
        let known = jobs.iter().filter_map(|job| {
            let run = runs.get(&job.run_id?)?;
            let known = Known {
                run: run.status,
                is_held: run.lease_alive,
                step: job.step_id.and_then(|step| steps.get(&step).copied()),
            };
            Some((job.uid.clone(), known))
        });
        Ok(known.collect())
    }

    fn needless<'j>(&self, jobs: &'j [JobSeen], known: &HashMap<String, Known>) -> Vec<&'j JobSeen> {
        let now = Instant::now();
        let mut unheld = self.unheld.lock().unwrap_or_else(PoisonError::into_inner);
        unheld.retain(|uid, _| known.get(uid).is_some_and(|known| !known.is_held));
        let is_needless = |job: &&JobSeen| {
            let Some(known) = known.get(&job.uid) else {
                return false;
            };
            let since = *unheld.entry(job.uid.clone()).or_insert(now);
            let alone = if known.is_held {
                Duration::ZERO
            } else {
                now.duration_since(since)
            };
            is_needless(*known, alone >= 2 * self.lease)
        };
        jobs.iter().filter(is_needless).collect()
    }
}

fn is_needless(known: Known, is_abandoned: bool) -> bool {
    let settled = matches!(
        known.step,
        Some(StepStatus::Completed | StepStatus::Failed | StepStatus::Skipped | StepStatus::Cancelled)
    );
    // Queued, planning and executing runs are taken up by a worker, sooner or later.
    let waits = matches!(
        known.run,
        RunStatus::Created | RunStatus::Paused | RunStatus::WaitingUser
    );
    known.run.is_final() || settled || (waits && !known.is_held && is_abandoned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_can_adopt_any_more_is_deleted() {
        let known = |run, is_held, step| Known { run, is_held, step };
        let running = Some(StepStatus::Running);
        for ended in [
            RunStatus::Completed,
            RunStatus::Failed,
            RunStatus::Cancelled,
            RunStatus::Timeout,
        ] {
            assert!(is_needless(known(ended, false, running), false), "{ended}");
        }
        for step in [StepStatus::Completed, StepStatus::Failed, StepStatus::Cancelled] {
            assert!(is_needless(known(RunStatus::Executing, true, Some(step)), false));
        }
        for step in [None, running, Some(StepStatus::Pending)] {
            for run in [RunStatus::Executing, RunStatus::Planning, RunStatus::Queued] {
                assert!(!is_needless(known(run, false, step), true), "adoptable");
            }
        }
        let paused = known(RunStatus::Paused, false, running);
        assert!(!is_needless(paused, false) && is_needless(paused, true));
        assert!(
            !is_needless(known(RunStatus::Paused, true, running), true),
            "its step settles"
        );
    }
}
