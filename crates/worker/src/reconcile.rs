//! Runs and lists compared, both ways. Postgres says which entry each run must have; Redis is put right.
//!
//! Safe while everything moves, because of the order of reading: entries first, then their runs. A job is pushed after
//! the commit that names it, and every start or resume names a new one; so an entry its run does not name is wanted by
//! nobody any more, for ever. Each repair is checked again by its script, against the claim as it was read. Jobs with a
//! live lease in Redis are left alone: whoever holds them settles them, or a sweep brings them back.

use domain::{Clock, Job, JobId, RunId, RunStatus};
use jiff::SignedDuration;
use queue::{Entry, ListName, Queue, QueueError, Waiting};
use runs::{LiveRun, StoreError, Sweep};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Runs or entries of one page.
const PAGE: u32 = 1000;
/// Entries of runs that Postgres does not know stay this long.
const UNKNOWN_GRACE: SignedDuration = SignedDuration::from_secs(60);

/// A failed comparison; nothing is lost by trying again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error("redis failed")]
    Queue(#[from] QueueError),
    #[error("run store failed")]
    Store(#[from] StoreError),
}

/// What an entry or a run has too much, too little or elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The run needs a job that is in no list.
    Missing { run_id: RunId, waiting: Waiting },
    /// The run needs no job at present.
    Stale {
        run_id: RunId,
        entry: Entry,
        status: RunStatus,
    },
    /// The run has another job.
    Duplicate { run_id: RunId, entry: Entry },
    /// No run has this id.
    UnknownRun { run_id: RunId, entry: Entry },
    /// The job waits in another list than its run says.
    WrongList {
        run_id: RunId,
        entry: Entry,
        waiting: Waiting,
    },
}

impl Difference {
    /// Every value of [`Difference::kind`].
    pub const KINDS: [&str; 5] = ["missing", "stale", "duplicate", "unknown_run", "wrong_list"];

    /// The `kind` label of `agent_reconciler_differences_total`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Stale { .. } => "stale",
            Self::Duplicate { .. } => "duplicate",
            Self::UnknownRun { .. } => "unknown_run",
            Self::WrongList { .. } => "wrong_list",
        }
    }

    pub const fn run_id(&self) -> RunId {
        match self {
            Self::Missing { run_id, .. }
            | Self::Stale { run_id, .. }
            | Self::Duplicate { run_id, .. }
            | Self::UnknownRun { run_id, .. }
            | Self::WrongList { run_id, .. } => *run_id,
        }
    }

    pub const fn job_id(&self) -> JobId {
        match self {
            Self::Missing { waiting, .. } => waiting.job.job_id,
            Self::Stale { entry, .. }
            | Self::Duplicate { entry, .. }
            | Self::UnknownRun { entry, .. }
            | Self::WrongList { entry, .. } => entry.job_id,
        }
    }
}

/// How many differences of each kind were mended.
pub type Mended = HashMap<&'static str, usize>;

/// What one pass over everything did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Passed {
    pub mended: Mended,
    /// The lists are not as long as `jobs:meta` says: somebody moved elements by hand.
    pub lists_disagree: bool,
}

/// Compares and mends; without state, so any worker may do it at any time.
#[derive(Debug, Clone)]
pub struct Reconciler {
    pub queue: Queue,
    pub sweep: Sweep,
    pub clock: Arc<dyn Clock>,
}

impl Reconciler {
    /// One pass over all runs and all entries, page by page.
    pub async fn run(&self) -> Result<Passed, ReconcileError> {
        let mut passed = Passed::default();
        let mut after = None;
        while let Some((found, last)) = self.runs_page(after).await? {
            self.mend(&found, &mut passed.mended).await?;
            after = Some(last);
        }
        let mut cursor = None;
        let mut counted = HashMap::new();
        loop {
            let page = self.queue.entries(cursor.as_deref(), PAGE as usize).await?;
            for entry in &page.entries {
                *counted.entry(entry.list).or_insert(0_u64) += 1;
            }
            let found = self.entries_page(page.entries).await?;
            self.mend(&found, &mut passed.mended).await?;
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        let depths = self.queue.depths().await?;
        let differs = |list: &ListName| counted.get(list).copied().unwrap_or(0) != depths.of(*list);
        passed.lists_disagree = ListName::ALL.iter().any(differs);
        Ok(passed)
    }

    /// All differences, and nothing changed.
    pub async fn differences(&self) -> Result<Vec<Difference>, ReconcileError> {
        let mut all = Vec::new();
        let mut after = None;
        while let Some((found, last)) = self.runs_page(after).await? {
            all.extend(found);
            after = Some(last);
        }
        let mut cursor = None;
        loop {
            let page = self.queue.entries(cursor.as_deref(), PAGE as usize).await?;
            all.extend(self.entries_page(page.entries).await?);
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// Live runs that nobody holds and whose job Redis does not know, with the id to go on from.
    async fn runs_page(
        &self,
        after: Option<RunId>,
    ) -> Result<Option<(Vec<Difference>, RunId)>, ReconcileError> {
        let page = self.sweep.live_page(after, PAGE).await?;
        let Some(last) = page.last().map(|run| run.run_id) else {
            return Ok(None);
        };
        let unheld: Vec<(LiveRun, Job)> = page
            .into_iter()
            .filter(|run| !run.lease_alive)
            .filter_map(|run| run.job.clone().map(|job| (run, job)))
            .collect();
        let ids: Vec<JobId> = unheld.iter().map(|(_, job)| job.job_id).collect();
        let missing: HashSet<JobId> = self.queue.missing(&ids).await?.into_iter().collect();
        let found = unheld
            .into_iter()
            .filter(|(_, job)| missing.contains(&job.job_id))
            .map(|(run, job)| Difference::Missing {
                run_id: run.run_id,
                waiting: self.waiting(&run, job),
            })
            .collect();
        Ok(Some((found, last)))
    }

    fn waiting(&self, run: &LiveRun, job: Job) -> Waiting {
        let now = self.clock.now();
        Waiting {
            job,
            retry_at: run.next_retry_at.filter(|at| *at > now),
        }
    }

    /// Entries that are not as their runs want them. The runs are read after the entries.
    async fn entries_page(&self, entries: Vec<Entry>) -> Result<Vec<Difference>, ReconcileError> {
        let idle = |entry: &Entry| !matches!(entry.list, ListName::Processing | ListName::Failed);
        let entries: Vec<(RunId, Entry)> = entries
            .into_iter()
            .filter(idle)
            .filter_map(|entry| Some((entry.job.as_ref()?.run_id, entry)))
            .collect();
        let ids: Vec<RunId> = entries.iter().map(|(run_id, _)| *run_id).collect();
        let runs = self.sweep.runs(&ids).await?;
        let runs: HashMap<RunId, LiveRun> = runs.into_iter().map(|run| (run.run_id, run)).collect();
        let judged = entries
            .into_iter()
            .filter_map(|(run_id, entry)| match runs.get(&run_id) {
                Some(run) => self.judge(run, entry),
                None => self.judge_unknown(run_id, entry),
            });
        Ok(judged.collect())
    }

    fn judge(&self, run: &LiveRun, entry: Entry) -> Option<Difference> {
        let run_id = run.run_id;
        // An entry pushed by hand starts it.
        if run.status == RunStatus::Created {
            return None;
        }
        if !run.status.needs_job() {
            let status = run.status;
            return Some(Difference::Stale {
                run_id,
                entry,
                status,
            });
        }
        let job = run.job.clone()?;
        if job.job_id != entry.job_id {
            return Some(Difference::Duplicate { run_id, entry });
        }
        let waiting = self.waiting(run, job);
        let is_right = match (entry.list, waiting.retry_at) {
            (ListName::Retry, None) => run.next_retry_at.is_some(), // its time has just come
            (ListName::Retry, Some(_)) => true,
            (_, Some(_)) => false,
            (list, None) => (list == ListName::HighPriority) == (waiting.job.priority > 0),
        };
        if is_right || run.lease_alive {
            return None;
        }
        Some(Difference::WrongList {
            run_id,
            entry,
            waiting,
        })
    }

    fn judge_unknown(&self, run_id: RunId, entry: Entry) -> Option<Difference> {
        let enqueued_at = entry.job.as_ref()?.enqueued_at;
        let is_old = self.clock.now().duration_since(enqueued_at) > UNKNOWN_GRACE;
        is_old.then_some(Difference::UnknownRun { run_id, entry })
    }

    /// Mends these differences, many at a time; adds what was done to `mended`.
    pub async fn mend(&self, found: &[Difference], mended: &mut Mended) -> Result<(), ReconcileError> {
        let (mut push, mut retry, mut moves) = (Vec::new(), Vec::new(), Vec::new());
        let mut discard: HashMap<&'static str, Vec<Entry>> = HashMap::new();
        for difference in found {
            match difference {
                Difference::Missing { waiting, .. } => match waiting.retry_at {
                    Some(at) => retry.push((waiting.job.clone(), at)),
                    None => push.push(waiting.job.clone()),
                },
                Difference::WrongList { entry, waiting, .. } => moves.push((entry.clone(), waiting.clone())),
                Difference::Stale { entry, .. }
                | Difference::Duplicate { entry, .. }
                | Difference::UnknownRun { entry, .. } => {
                    discard.entry(difference.kind()).or_default().push(entry.clone());
                }
            }
        }
        // The eldest is served first.
        push.sort_by_key(|job| (job.enqueued_at, job.job_id));
        let mut add = |kind, count| {
            if count > 0 {
                *mended.entry(kind).or_insert(0) += count;
            }
        };
        add("missing", self.queue.push_all(&push).await?);
        add("missing", self.queue.push_retries(&retry, "").await?);
        add("wrong_list", self.queue.reseat(&moves).await?);
        for (kind, entries) in discard {
            add(kind, self.queue.discard(&entries).await?);
        }
        Ok(())
    }
}
