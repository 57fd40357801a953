//! Files of ended runs are not kept for ever: by age, by size, and what is ours as soon as nobody needs it any more.
//!
//! Invariants:
//! - Nothing is set, nothing of a user's is deleted: every limit is off unless given.
//! - A run is marked before anything of it is removed ([`runs::Retention`]); what is cut off in between is finished by a later
//!   sweep of any worker.
//! - One sweep does a bounded amount of work; a store that fails ends it, and the run in hand is tried again later.

use crate::workspace::{Amount, StoredRun, Workspaces};
use agent::ports::WorkspaceError;
use domain::Clock;
use jiff::{SignedDuration, Timestamp};
use runs::{Caps, Cutoffs, EndedRun, Retention, StoreError};
use std::sync::Arc;

/// Runs looked at by each part of a sweep.
const BATCH: u32 = 100;
/// After its end a run's last worker may still be storing something.
const SETTLING: SignedDuration = SignedDuration::from_mins(1);
/// Younger files of unknown runs are left alone: their run may be about to be stored.
const ORPHAN_AGE: SignedDuration = SignedDuration::from_hours(24);
const HOURS_PER_DAY: i64 = 24;

/// How long files of ended runs are kept. 0 keeps them.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct RetentionOptions {
    /// Days the files of a completed run are kept; 0 for ever.
    #[arg(long, env = "WORKSPACE_RETENTION_COMPLETED_DAYS", default_value_t = 0)]
    pub workspace_retention_completed_days: u32,
    /// Days the files of a failed or timed-out run are kept; 0 for ever.
    #[arg(long, env = "WORKSPACE_RETENTION_FAILED_DAYS", default_value_t = 0)]
    pub workspace_retention_failed_days: u32,
    /// Days the files of a cancelled run are kept; 0 for ever.
    #[arg(long, env = "WORKSPACE_RETENTION_CANCELLED_DAYS", default_value_t = 0)]
    pub workspace_retention_cancelled_days: u32,
    /// Bytes the ended runs of one user may keep, oldest go first; 0 for any number.
    #[arg(long, env = "WORKSPACE_RETENTION_USER_MAX_BYTES", default_value_t = 0)]
    pub workspace_retention_user_max_bytes: u64,
    /// Bytes all ended runs may keep, oldest go first; 0 for any number.
    #[arg(long, env = "WORKSPACE_RETENTION_MAX_BYTES", default_value_t = 0)]
    pub workspace_retention_max_bytes: u64,
    /// Hours after its end that packs and outputs of a run's tools (`.agent/`) are kept; 0 for ever.
    #[arg(long, env = "WORKSPACE_RETENTION_SCRATCH_HOURS", default_value_t = 24)]
    pub workspace_retention_scratch_hours: u32,
}

impl RetentionOptions {
    fn cutoffs(&self, now: Timestamp) -> Cutoffs {
        let before = |days: u32| (days > 0).then(|| earlier(now, i64::from(days) * HOURS_PER_DAY));
        Cutoffs {
            completed: before(self.workspace_retention_completed_days),
            failed: before(self.workspace_retention_failed_days),
            cancelled: before(self.workspace_retention_cancelled_days),
        }
    }

    fn caps(&self) -> Caps {
        let cap = |bytes: u64| (bytes > 0).then_some(bytes);
        Caps {
            per_user: cap(self.workspace_retention_user_max_bytes),
            altogether: cap(self.workspace_retention_max_bytes),
        }
    }

    /// Whether a user's files are ever deleted.
    pub fn deletes_files(&self) -> bool {
        self.cutoffs(Timestamp::UNIX_EPOCH) != Cutoffs::default() || self.caps() != Caps::default()
    }
}

/// So many hours before `now`, or the beginning of time as Postgres and we both know it.
fn earlier(now: Timestamp, hours: i64) -> Timestamp {
    let before = now.checked_sub(SignedDuration::from_hours(hours));
    before.unwrap_or(Timestamp::UNIX_EPOCH).max(Timestamp::UNIX_EPOCH)
}

/// Why a sweep ended early.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    #[error("run store failed")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Files(#[from] WorkspaceError),
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Runs whose files were deleted.
    pub runs: u64,
    pub deleted: Amount,
    /// Of what is ours.
    pub scratch: Amount,
}

/// What is to be deleted, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub run: EndedRun,
    /// `age` or `size`.
    pub reason: &'static str,
}

/// Files of a run that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    pub stored: StoredRun,
    pub amount: Amount,
    pub newest: Timestamp,
}

/// Looks for files past their time and deletes them.
#[derive(Debug, Clone)]
pub struct Sweeper {
    pub runs: Retention,
    pub workspaces: Workspaces,
    pub rules: RetentionOptions,
    pub clock: Arc<dyn Clock>,
}

impl Sweeper {
    /// One round of everything, bounded.
    ///
    /// # Errors
    /// When one of the stores fails; what was done until then is done.
    pub async fn sweep(&self) -> Result<Swept, RetentionError> {
        let mut swept = Swept::default();
        if !self.workspaces.is_configured() {
            return Ok(swept);
        }
        swept.deleted = self.resume().await?;
        self.measure(BATCH).await?;
        for due in self.due(None, BATCH).await? {
            if let Some(deleted) = self.expire(&due).await? {
                swept.runs += 1;
                swept.deleted += deleted;
            }
        }
        swept.scratch = self.sweep_scratch().await?;
        Ok(swept)
    }

    /// Goes on with removals that were cut off.
    pub async fn resume(&self) -> Result<Amount, RetentionError> {
        let (now, mut removed) = (self.clock.now(), Amount::default());
        for run in self.runs.interrupted(now, BATCH).await? {
            if self.runs.hold(run.run_id, now).await? {
                removed += self.clear(&run, "interrupted").await?;
            }
        }
        Ok(removed)
    }

    /// Counts what ended runs have left, at most so many of them; gives how many.
    pub async fn measure(&self, limit: u32) -> Result<usize, RetentionError> {
        let now = self.clock.now();
        let settled = now.checked_sub(SETTLING).unwrap_or(now);
        let runs = self.runs.unmeasured(settled, limit).await?;
        for run in &runs {
            let workspace = self.workspaces.of_run(&run.user_id, run.run_id);
            let Amount { files, bytes } = workspace.measure().await?;
            self.runs.measured(run.run_id, (files, bytes), now).await?;
        }
        Ok(runs.len())
    }

    /// What is past its time: by the rules, or everything that ended before a moment.
    pub async fn due(&self, ended_before: Option<Timestamp>, limit: u32) -> Result<Vec<Due>, RetentionError> {
        let of = |runs: Vec<EndedRun>, reason| runs.into_iter().map(move |run| Due { run, reason });
        if let Some(before) = ended_before {
            let old = self.runs.past_age(Cutoffs::all(before), limit).await?;
            return Ok(of(old, "age").collect());
        }
        let old = self
            .runs
            .past_age(self.rules.cutoffs(self.clock.now()), limit)
            .await?;
        let mut due: Vec<Due> = of(old, "age").collect();
        for large in of(self.runs.past_size(self.rules.caps(), limit).await?, "size") {
            if !due.iter().any(|known| known.run.run_id == large.run.run_id) {
                due.push(large);
            }
        }
        Ok(due)
    }

    /// Marks a run and deletes its files; nothing when it must be kept, or another sweep was first.
    pub async fn expire(&self, due: &Due) -> Result<Option<Amount>, RetentionError> {
        if !self.runs.expire(due.run.run_id, self.clock.now()).await? {
            return Ok(None);
        }
        metrics::counter!("agent_workspace_runs_expired_total", "reason" => due.reason).increment(1);
        tracing::info!(run_id = %due.run.run_id, reason = due.reason, files = due.run.files, bytes = due.run.bytes,
            "files of a run expired");
        self.clear(&due.run, due.reason).await.map(Some)
    }

    /// Deletes everything of a marked run.
    async fn clear(&self, run: &EndedRun, reason: &'static str) -> Result<Amount, RetentionError> {
        let workspace = self.workspaces.of_run(&run.user_id, run.run_id);
        let removed = self.held(run, workspace.remove_all()).await?;
        count(removed, reason);
        self.runs.cleared(run.run_id, self.clock.now()).await?;
        Ok(removed)
    }

    /// When the store fails, the run is let go for a later try.
    async fn held(
        &self,
        run: &EndedRun,
        removal: impl Future<Output = Result<Amount, WorkspaceError>>,
    ) -> Result<Amount, RetentionError> {
        let removed = removal.await;
        if removed.is_err() {
            self.runs.let_go(run.run_id, self.clock.now()).await?;
        }
        Ok(removed?)
    }

    async fn sweep_scratch(&self) -> Result<Amount, RetentionError> {
        let mut all = Amount::default();
        let hours = i64::from(self.rules.workspace_retention_scratch_hours);
        if hours == 0 {
            return Ok(all);
        }
        let now = self.clock.now();
        let due = self.runs.with_scratch(earlier(now, hours), now, BATCH).await?;
        for run in due {
            if !self.runs.hold(run.run_id, now).await? {
                continue;
            }
            let workspace = self.workspaces.of_run(&run.user_id, run.run_id);
            let removed = self.held(&run, workspace.remove_hidden()).await?;
            count(removed, "scratch");
            self.runs.scratch_cleared(run.run_id, now).await?;
            all += removed;
        }
        Ok(all)
    }

    /// What the store holds of runs that are not in the database, older than a day.
    pub async fn orphans(&self) -> Result<Vec<Orphan>, RetentionError> {
        let young = self.clock.now().checked_sub(ORPHAN_AGE).unwrap_or_default();
        let stored = self.workspaces.stored_runs().await?;
        let mut found = vec![];
        for some in stored.chunks(BATCH as usize) {
            let ids: Vec<_> = some.iter().map(|one| one.run_id).collect();
            let known = self.runs.known(&ids).await?;
            for one in some.iter().filter(|one| !known.contains(&one.run_id)) {
                let (amount, newest) = self.workspaces.weigh(one).await?;
                let old = newest.filter(|newest| *newest < young);
                found.extend(old.map(|newest| Orphan {
                    stored: one.clone(),
                    amount,
                    newest,
                }));
            }
        }
        Ok(found)
    }

    /// Deletes all of an orphan.
    pub async fn remove(&self, orphan: &Orphan) -> Result<Amount, RetentionError> {
        let removed = self.workspaces.remove(&orphan.stored).await?;
        count(removed, "orphan");
        Ok(removed)
    }
}

fn count(removed: Amount, reason: &'static str) {
    metrics::counter!("agent_workspace_objects_deleted_total", "reason" => reason).increment(removed.files);
    metrics::counter!("agent_workspace_bytes_deleted_total", "reason" => reason).increment(removed.bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        retention: RetentionOptions,
    }

    #[test]
    fn nothing_of_a_users_is_deleted_unless_it_is_said() {
        let none = Options::parse_from(["test"]).retention;
        assert!(!none.deletes_files());
        assert_eq!(none.workspace_retention_scratch_hours, 24);
        let aged = Options::parse_from(["test", "--workspace-retention-failed-days", "3"]).retention;
        assert!(aged.deletes_files());
        let now: Timestamp = "2026-03-10T00:00:00Z".parse().unwrap();
        let cutoffs = aged.cutoffs(now);
        assert_eq!((cutoffs.completed, cutoffs.cancelled), (None, None));
        assert_eq!(cutoffs.failed, Some("2026-03-07T00:00:00Z".parse().unwrap()));
        let sized = Options::parse_from(["test", "--workspace-retention-max-bytes", "5"]).retention;
        assert_eq!(sized.caps().altogether, Some(5));
        assert!(sized.deletes_files());
    }

    #[test]
    fn a_very_long_time_is_all_of_it() {
        assert_eq!(
            earlier(Timestamp::UNIX_EPOCH, i64::from(u32::MAX) * 24),
            Timestamp::UNIX_EPOCH
        );
    }
}
