//! Healing: any worker may run it at any time, it takes no input and needs no leader.
//!
//! [`Maintenance::sweep`] is one script behind a guard, so that N workers sweep as often as one. It ends leases that
//! ran out (front of the line), finds elements of `jobs:processing` without a lease (two sweeps running) and
//! puts back elements whose lease is alive. [`Maintenance::audit`] compares what is known with what is in the lists and mends
//! what two audits running found astray.

use crate::census::{Census, Fault};
use crate::error::QueueError;
use crate::glance::glance;
use crate::keys::ListName;
use crate::reply::arg;
use crate::script;
use crate::store::Store;
use fred::types::Value;
use std::collections::HashSet;
use std::time::Duration;

/// How often a sweep is worth calling.
pub const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// How often an audit is worth calling.
pub const AUDIT_INTERVAL: Duration = Duration::from_secs(5);
/// Sweeps closer together than this do nothing.
const SWEEP_GUARD: Duration = Duration::from_millis(450);
/// Most repairs of one sweep or audit, so that Redis is never held up.
const MOST_REPAIRS: usize = 500;
/// Repairs of one script call: each may walk through long lists.
const REPAIR_BATCH: usize = 50;

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Jobs whose lease ran out, back at the front of their line.
    pub reclaimed: u64,
    /// Elements of `jobs:processing` without a lease, queued again.
    pub orphans: u64,
    /// Elements that were gone although their lease is alive, put back.
    pub restored: u64,
    /// Leases without a job, dropped.
    pub dropped: u64,
}

impl Swept {
    pub fn is_quiet(&self) -> bool {
        *self == Self::default()
    }
}

/// Runs the healing scripts; remembers the last audit.
#[derive(Debug)]
pub struct Maintenance {
    store: Store,
    suspects: HashSet<Fault>,
    /// Audits still to be done whatever the counts say.
    close_looks: u8,
}

impl Maintenance {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            suspects: HashSet::new(),
            close_looks: 0,
        }
    }

    /// Reclaims and repairs; nothing when no job is held or another sweep ran just before.
    pub async fn sweep(&self) -> Result<Option<Swept>, QueueError> {
        let args = vec![arg(SWEEP_GUARD.as_millis()), arg(MOST_REPAIRS)];
        let answer = self.store.run(&script::SWEEP, args).await?;
        if answer.is_nil() {
            return Ok(None);
        }
        let [reclaimed, orphans, restored, dropped] = answer.tuple()?;
        let count = |reply: crate::reply::Reply| reply.number().map(|n| u64::try_from(n).unwrap_or(0));
        let swept = Swept {
            reclaimed: count(reclaimed)?,
            orphans: count(orphans)?,
            restored: count(restored)?,
            dropped: count(dropped)?,
        };
        if !swept.is_quiet() {
            tracing::info!(?swept, "queue sweep repaired something");
        }
        Ok(Some(swept))
    }

    /// Mends what this audit and the one before both found astray: jobs known but in no list are forgotten (so
    /// that the reconciler can push them again), retries without a due time are queued, elements in the wrong list or
    /// doubled are put right. Cheap when the counts agree. Returns the number of repairs.
    pub async fn audit(&mut self) -> Result<u64, QueueError> {
        if self.close_looks == 0 && glance(&self.store).await?.counts_agree {
            self.suspects.clear();
            return Ok(0);
        }
        self.close_looks = self.close_looks.saturating_sub(1);
        let found: HashSet<Fault> = Census::read(&self.store).await?.faults().into_iter().collect();
        let mut confirmed: Vec<Fault> = found.intersection(&self.suspects).cloned().collect();
        // What is lost first: forgetting a job mends its times too.
        confirmed.sort();
        confirmed.truncate(MOST_REPAIRS);
        let mended = self.mend(&confirmed).await?;
        self.suspects = found;
        if mended > 0 {
            tracing::info!(mended, "queue audit repaired something");
        }
        Ok(mended)
    }

    /// Makes the next two audits look whatever the counts say: a job is not where `jobs:meta` says.
    pub fn look_closely(&mut self) {
        self.close_looks = 2;
    }

    /// Mends these faults; each is checked again by the script. What only a sweep mends is left to it.
    /// Returns the number of repairs.
    pub async fn mend(&self, faults: &[Fault]) -> Result<u64, QueueError> {
        let mut mended = 0;
        for batch in faults.chunks(REPAIR_BATCH) {
            let args: Vec<Value> = batch.iter().flat_map(repair).collect();
            if !args.is_empty() {
                mended += self.store.run(&script::PRUNE, args).await?.number()?;
            }
        }
        Ok(u64::try_from(mended).unwrap_or(0))
    }
}

/// Kind, id, list and element for `lua/prune.lua`; nothing for what a sweep mends.
fn repair(fault: &Fault) -> Vec<Value> {
    let id = fault.job_id().unwrap_or_default();
    let (kind, list, raw) = match fault {
        Fault::Lost { .. } => ("lost", "", None),
        Fault::Torn { list, raw, .. } => ("torn", list.code(), Some(raw)),
        Fault::WrongList { list, raw, .. } | Fault::Doubled { list, raw, .. } => {
            ("entry", list.code(), Some(raw))
        }
        Fault::NotDue { raw } => ("retry", ListName::Retry.code(), Some(raw)),
        Fault::StrayDue { .. } => ("due", "", None),
        Fault::StrayLease { .. } => ("lease", "", None),
        Fault::Unleased { .. } => return Vec::new(),
    };
    let raw = raw.cloned().unwrap_or_default();
    vec![arg(kind), arg(id), arg(list), Value::Bytes(raw.into())]
}
