//! Renewing leases, from a thread and a connection of its own.
//!
//! A [`Renewer`] owns its client, so it can live on a dedicated OS thread with a current-thread runtime: a busy
//! worker runtime then never loses a lease by mistake. It also notices that Redis lost its data
//! (`jobs:incarnation` changed) and takes the jobs in hand back.

use crate::error::QueueError;
use crate::keys::ListName;
use crate::options::RedisOptions;
use crate::reply::{Reply, arg};
use crate::script;
use crate::store::Store;
use domain::{Ids, JobId, WorkerId};
use std::sync::Arc;
use std::time::Duration;

/// A claim to renew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldClaim {
    pub job_id: JobId,
    pub epoch: i64,
    /// The element in `jobs:processing`, to put it back when Redis lost it.
    pub raw: String,
    pub high_priority: bool,
    /// A step has settled since the last renewal: the count of crashes in a row starts again.
    pub step_settled: bool,
}

/// What a renewal found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease runs for another full length.
    Held,
    /// Redis had lost the job or had put it back; it is in `jobs:processing` with a lease again.
    Readopted,
    /// Another claim owns the job, or it was removed (or settled meanwhile): stop working on it.
    Lost,
}

/// Renews the leases of one worker.
#[derive(Debug)]
pub struct Renewer {
    store: Store,
    worker: WorkerId,
    ids: Arc<dyn Ids>,
    incarnation: String,
}

impl Renewer {
    /// Opens a connection on the present runtime; returns at once.
    pub fn connect(options: &RedisOptions, worker: WorkerId, ids: Arc<dyn Ids>) -> Result<Self, QueueError> {
        Ok(Self {
            store: Store::open(options, "renewer")?,
            worker,
            ids,
            incarnation: String::new(),
        })
    }

    /// Renews all leases of the worker in one call; one answer per claim, in order. Call it also without claims:
    /// it learns that Redis lost its data only by looking.
    pub async fn renew(&mut self, held: &[HeldClaim], lease: Duration) -> Result<Vec<Renewal>, QueueError> {
        let mut args = vec![
            arg(lease.as_millis()),
            arg(&self.worker),
            arg(&self.incarnation),
            arg(self.ids.uuid()),
        ];
        for claim in held {
            let home = ListName::home(u8::from(claim.high_priority));
            args.extend([
                arg(claim.job_id),
                arg(claim.epoch),
                arg(&claim.raw),
                arg(home.code()),
                arg(u8::from(claim.step_settled)),
            ]);
        }
        let [incarnation, answers] = self.store.run(&script::RENEW, args).await?.tuple()?;
        self.incarnation = incarnation.text()?;
        answers.rows()?.into_iter().map(read).collect()
    }

    /// True while the connection is up.
    pub fn is_connected(&self) -> bool {
        self.store.connection().is_connected()
    }
}

fn read(answer: Reply) -> Result<Renewal, QueueError> {
    match answer.text()?.as_str() {
        "held" => Ok(Renewal::Held),
        "readopted" => Ok(Renewal::Readopted),
        "lost" => Ok(Renewal::Lost),
        _ => Err(QueueError::Unexpected { operation: "renew" }),
    }
}
