//! The ports in memory: a run log that keeps what it is given, a workspace in a map, a sandbox that is not there.
//! They are the second implementations of the ports, and what the unit tests of this crate run on.

use crate::ports::{
    CommitError, FileInfo, RunLog, Sandbox, SandboxError, SandboxEvents, SandboxOutput, SandboxRequest,
    Workspace, WorkspaceError, Written,
};
use crate::purse::Purse;
use bytes::Bytes;
use domain::Change;
use domain::budget::{Budget, Reached, Spend};
use domain::canonical::hex;
use domain::tool::ArtifactRef;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps every commit, and refuses from a given one on.
#[derive(Debug, Default)]
pub struct MemoryLog {
    commits: Mutex<Vec<Vec<Change>>>,
    refusals: Mutex<Vec<CommitError>>,
    lost: Mutex<bool>,
    /// Turns that can still be paid for; none means any number.
    paid_turns: Mutex<Option<u32>>,
    /// What the run may spend.
    pub purse: Option<Purse>,
    /// Caps that come into force when they are read again.
    pub raised: Option<Budget>,
    /// A shared cap that leaves no room,
    pub day: Option<Reached>,
    /// but for so many calls.
    pub day_calls: usize,
    reserved: Mutex<Vec<(u32, Spend)>>,
    shown: Mutex<Vec<(u32, u32, String)>>,
}

impl MemoryLog {
    /// The next commits get these answers, in order, before any is taken.
    pub fn refuse(&self, error: CommitError) {
        locked(&self.refusals).push(error);
    }

    /// From now on the claim counts as lost.
    pub fn lose(&self) {
        *locked(&self.lost) = true;
    }

    /// The user can pay for this many more turns.
    pub fn pay_for(&self, turns: u32) {
        *locked(&self.paid_turns) = Some(turns);
    }

    /// Text that was shown while it came: turn, try, text.
    pub fn shown(&self) -> Vec<(u32, u32, String)> {
        locked(&self.shown).clone()
    }

    /// What was set aside: turn and worst case.
    pub fn reserved(&self) -> Vec<(u32, Spend)> {
        locked(&self.reserved).clone()
    }

    pub fn commits(&self) -> Vec<Vec<Change>> {
        locked(&self.commits).clone()
    }

    pub fn changes(&self) -> Vec<Change> {
        self.commits().concat()
    }
}

impl RunLog for MemoryLog {
    async fn commit(&self, changes: Vec<Change>) -> Result<(), CommitError> {
        let refusal = {
            let mut refusals = locked(&self.refusals);
            if refusals.is_empty() {
                None
            } else {
                Some(refusals.remove(0))
            }
        };
        if let Some(error) = refusal {
            return Err(error);
        }
        locked(&self.commits).push(changes);
        Ok(())
    }

    fn is_held(&self) -> bool {
        !*locked(&self.lost)
    }

    fn show_text(&self, turn: u32, try_number: u32, text: &str) {
        locked(&self.shown).push((turn, try_number, text.to_owned()));
    }

    fn purse(&self) -> Option<&Purse> {
        self.purse.as_ref()
    }

    async fn refresh_purse(&self) -> Result<(), CommitError> {
        if let (Some(purse), Some(raised)) = (&self.purse, self.raised) {
            purse.set_budget(raised);
        }
        Ok(())
    }

    async fn reserve(&self, turn: u32, worst: Spend) -> Result<Option<Reached>, CommitError> {
        let mut reserved = locked(&self.reserved);
        if reserved.len() >= self.day_calls && self.day.is_some() {
            return Ok(self.day);
        }
        reserved.push((turn, worst));
        Ok(None)
    }

    async fn can_pay(&self) -> Result<bool, CommitError> {
        let mut paid = locked(&self.paid_turns);
        let Some(turns) = paid.as_mut() else {
            return Ok(true);
        };
        let can = *turns > 0;
        *turns = turns.saturating_sub(1);
        Ok(can)
    }
}

/// Files in a map.
#[derive(Debug, Default)]
pub struct MemoryWorkspace(Mutex<BTreeMap<String, Bytes>>);

impl Workspace for MemoryWorkspace {
    async fn read(&self, path: &str) -> Result<Bytes, WorkspaceError> {
        locked(&self.0)
            .get(path)
            .cloned()
            .ok_or_else(|| WorkspaceError::NotFound(path.to_owned()))
    }

    async fn write(&self, path: &str, content: Bytes) -> Result<Written, WorkspaceError> {
        if path.is_empty() || path.starts_with('/') || path.split('/').any(|part| part == "..") {
            return Err(WorkspaceError::InvalidPath(path.to_owned()));
        }
        let artifact = ArtifactRef {
            file_path: path.to_owned(),
            file_size: content.len() as i64,
            content_hash: hex(&Sha256::digest(&content)),
            mime_type: "text/plain".to_owned(),
            storage_bucket: "memory".to_owned(),
            storage_key: path.to_owned(),
        };
        let replaced = locked(&self.0).insert(path.to_owned(), content).is_some();
        Ok(Written { artifact, replaced })
    }

    async fn list(&self, dir: &str) -> Result<Vec<FileInfo>, WorkspaceError> {
        let files = locked(&self.0);
        let below = files.iter().filter(|(path, _)| path.starts_with(dir));
        let info = |(path, content): (&String, &Bytes)| FileInfo {
            filepath: path.clone(),
            size: content.len() as i64,
            last_modified: "1970-01-01T00:00:00.000000Z".to_owned(),
        };
        Ok(below.map(info).collect())
    }
}

/// No isolation to be had; every call says so.
#[derive(Debug, Default)]
pub struct NoSandbox;

impl Sandbox for NoSandbox {
    async fn run(
        &self,
        _: &SandboxRequest,
        _: &impl SandboxEvents,
        _: &CancellationToken,
    ) -> Result<SandboxOutput, SandboxError> {
        Err(SandboxError::Unavailable(
            "shell and code are not configured: set TOOL_EXECUTOR".to_owned(),
        ))
    }
}
