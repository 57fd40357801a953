//! Healing: any worker may run it at any time, it takes no input and needs no leader.
//!
//! [`Maintenance::sweep`] is one script behind a guard, so that N workers sweep as often as one. It ends leases that
//! ran out (front of the line), finds elements of `jobs:processing` without a lease (two sweeps running) and
//! puts back elements whose lease is alive. [`Maintenance::audit`] compares what is known with what is in the lists and mends
//! what two audits running found astray.

use crate::connection::{Patience, measured};
use crate::error::QueueError;
use crate::keys::ListName;
use crate::reply::arg;
use crate::script;
use crate::store::Store;
use fred::interfaces::{HashesInterface, ListInterface, SortedSetsInterface};
use std::collections::HashSet;
use std::time::Duration;

/// How often a sweep is worth calling.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often an audit is worth calling.
pub const AUDIT_INTERVAL: Duration = Duration::from_secs(5);
/// Sweeps closer together than this do nothing.
const SWEEP_GUARD: Duration = Duration::from_millis(450);
/// Most repairs of one sweep or audit, so that Redis is never held up.
const MOST_REPAIRS: usize = 500;
/// Elements read per call of an audit.
const PAGE: usize = 1000;

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
    suspects: HashSet<Suspect>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Suspect {
    /// Known to `jobs:meta` but in no list.
    Id(String),
    /// In the retry list without a due time.
    Retry(Vec<u8>),
}

impl Maintenance {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            suspects: HashSet::new(),
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
    /// that the reconciler can push them again), retries without a due time are queued. Cheap when the counts
    /// agree. Returns the number of repairs.
    pub async fn audit(&mut self) -> Result<u64, QueueError> {
        if self.counts_agree().await? {
            self.suspects.clear();
            return Ok(0);
        }
        let found = self.find_suspects().await?;
        let confirmed: Vec<&Suspect> = found
            .iter()
            .filter(|suspect| self.suspects.contains(suspect))
            .take(MOST_REPAIRS)
            .collect();
        let mut args = Vec::with_capacity(confirmed.len() * 2);
        for suspect in confirmed {
            match suspect {
                Suspect::Id(id) => args.extend([arg("id"), arg(id)]),
                Suspect::Retry(text) => {
                    args.extend([arg("retry"), fred::types::Value::Bytes(text.clone().into())]);
                }
            }
        }
        let mended = if args.is_empty() {
            0
        } else {
            self.store.run(&script::PRUNE, args).await?.number()?
        };
        self.suspects = found;
        if mended > 0 {
            tracing::info!(mended, "queue audit repaired something");
        }
        Ok(u64::try_from(mended).unwrap_or(0))
    }

    /// One round trip: every known job is one element, every retry has one due time.
    async fn counts_agree(&self) -> Result<bool, QueueError> {
        let keys = self.store.keys();
        let pipeline = self.store.connection().with(Patience::Normal).pipeline();
        let queued = async {
            for list in ListName::ALL {
                let () = pipeline.llen(keys.list(list)).await?;
            }
            let () = pipeline.hlen(keys.named("meta")).await?;
            let () = pipeline.hlen(keys.named("body")).await?;
            let () = pipeline.zcard(keys.named("retry:due")).await?;
            pipeline.all::<Vec<u64>>().await
        };
        let counts = measured("audit", queued).await?;
        let [high, pending, processing, retry, failed, meta, body, due] = counts[..] else {
            return Err(QueueError::Unexpected { operation: "audit" });
        };
        let elements = high + pending + processing + retry + failed;
        Ok(elements == meta && meta == body && retry == due)
    }

    async fn find_suspects(&self) -> Result<HashSet<Suspect>, QueueError> {
        let mut listed = HashSet::new();
        let mut suspects = HashSet::new();
        for list in ListName::ALL {
            for text in self.elements(list).await? {
                let id = crate::rebuild::job_id_in(&text);
                if list == ListName::Retry && !self.has_due(id.as_deref()).await? {
                    suspects.insert(Suspect::Retry(text));
                }
                listed.extend(id);
            }
        }
        let mut cursor = String::from("0");
        loop {
            let (next, ids) = crate::rebuild::scan_hash(&self.store, "meta", &cursor, PAGE).await?;
            let astray = ids
                .into_iter()
                .map(|(id, _)| id)
                .filter(|id| !listed.contains(id));
            suspects.extend(astray.map(Suspect::Id));
            if next == "0" {
                return Ok(suspects);
            }
            cursor = next;
        }
    }

    async fn has_due(&self, id: Option<&str>) -> Result<bool, QueueError> {
        let Some(id) = id else { return Ok(false) };
        let client = self.store.connection().with(Patience::Normal);
        let score: Option<f64> =
            measured("audit", client.zscore(self.store.keys().named("retry:due"), id)).await?;
        Ok(score.is_some())
    }

    async fn elements(&self, list: ListName) -> Result<Vec<Vec<u8>>, QueueError> {
        let mut all = Vec::new();
        loop {
            let client = self.store.connection().with(Patience::Normal);
            let from = all.len() as i64;
            let range = client.lrange(self.store.keys().list(list), from, from + PAGE as i64 - 1);
            let page: Vec<Vec<u8>> = measured("audit", range).await?;
            let is_last = page.len() < PAGE;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }
}
