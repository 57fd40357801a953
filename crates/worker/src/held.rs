//! The runs this worker holds, as the lease thread sees them.

use domain::ids::{JobId, RunId};
use queue::HeldClaim;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A lease is given up this long before it would run out: time to end the running step before another may own the run.
pub const LEASE_MARGIN: Duration = Duration::from_millis(1500);

/// One held run.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Epoch of the claim in Postgres; `None` until the claim is committed.
    pub epoch: Option<i64>,
    /// What the renewal in Redis needs; `step_settled` is filled in by [`Hold::to_renew`].
    pub claim: HeldClaim,
    /// Steps settled under this claim, and how many of them a renewal has told Redis of.
    pub settled: u64,
    pub reported: u64,
    /// Fired when the run was stopped or the lease is lost.
    pub cancel: CancellationToken,
    /// Fired when the run was paused.
    pub pause: CancellationToken,
    /// When either store last confirmed the lease.
    pub confirmed: Instant,
}

impl Hold {
    /// A run that was just claimed in Redis.
    pub fn new(claim: HeldClaim, cancel: CancellationToken, pause: CancellationToken) -> Self {
        Self {
            epoch: None,
            claim,
            settled: 0,
            reported: 0,
            cancel,
            pause,
            confirmed: Instant::now(),
        }
    }

    /// The claim as the next renewal sends it.
    pub fn to_renew(&self) -> HeldClaim {
        HeldClaim {
            step_settled: self.settled > self.reported,
            ..self.claim.clone()
        }
    }
}

/// Shared between the job tasks and the lease thread; cheap clone.
#[derive(Debug, Clone, Default)]
pub struct HeldRuns(Arc<Mutex<HashMap<RunId, Hold>>>);

/// Keeps a run in the list; leaving the scope takes it out, also by a panic.
#[derive(Debug)]
pub struct HoldGuard {
    runs: HeldRuns,
    run_id: RunId,
}

impl Drop for HoldGuard {
    fn drop(&mut self) {
        self.runs.locked().remove(&self.run_id);
    }
}

impl HeldRuns {
    fn locked(&self) -> MutexGuard<'_, HashMap<RunId, Hold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to hold a run; `None` when this worker holds it already.
    pub fn hold(&self, run_id: RunId, hold: Hold) -> Option<HoldGuard> {
        let mut runs = self.locked();
        if runs.contains_key(&run_id) {
            return None;
        }
        runs.insert(run_id, hold);
        Some(HoldGuard {
            runs: self.clone(),
            run_id,
        })
    }

    /// The job under which a run is held here.
    pub fn job_of(&self, run_id: RunId) -> Option<JobId> {
        self.locked().get(&run_id).map(|hold| hold.claim.job_id)
    }

    /// Changes a hold, when it is still there.
    pub fn update(&self, run_id: RunId, change: impl FnOnce(&mut Hold)) {
        if let Some(hold) = self.locked().get_mut(&run_id) {
            change(hold);
        }
    }

    /// Stops a run's running step, when it is held here.
    pub fn cancel(&self, run_id: RunId) {
        self.update(run_id, |hold| hold.cancel.cancel());
    }

    /// Ends a run's pending model call, when it is held here.
    pub fn pause(&self, run_id: RunId) {
        self.update(run_id, |hold| hold.pause.cancel());
    }

    /// Whether a store has confirmed the lease recently enough that it cannot have run out.
    pub fn is_confirmed(&self, run_id: RunId, lease: Duration) -> bool {
        let runs = self.locked();
        runs.get(&run_id)
            .is_some_and(|hold| hold.confirmed.elapsed() < lease.saturating_sub(LEASE_MARGIN))
    }

    pub fn all(&self) -> Vec<(RunId, Hold)> {
        self.locked()
            .iter()
            .map(|(run_id, hold)| (*run_id, hold.clone()))
            .collect()
    }

    pub fn len(&self) -> usize {
        self.locked().len()
    }

    pub fn is_empty(&self) -> bool {
        self.locked().is_empty()
    }
}
