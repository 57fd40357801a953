//! What limits of single processes cannot see: the memory of all together, and the size of the workspace.

use super::process::Init;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

const INTERVAL: Duration = Duration::from_millis(250);
/// The workspace is measured at every n-th look.
const DISK_EVERY: u32 = 4;
/// Files and directories of a workspace; more are not waited for.
const MAX_ENTRIES: usize = 200_000;
const KIB: u64 = 1024;

/// What is watched and how much is allowed, in bytes.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    pub memory_bytes: u64,
    pub workspace: PathBuf,
    pub workspace_bytes: u64,
}

impl Watch {
    /// Returns when a limit is passed, with the reason to tell.
    pub(super) async fn exceeded(&self, init: Option<&Init>) -> String {
        let Some(init) = init else {
            return std::future::pending().await;
        };
        let mut looks = 0_u32;
        loop {
            sleep(INTERVAL).await;
            looks = looks.wrapping_add(1);
            let (watch, init, disk) = (self.clone(), init.clone(), looks.is_multiple_of(DISK_EVERY));
            let look = tokio::task::spawn_blocking(move || watch.look(&init, disk));
            match look.await {
                Ok(Some(reason)) => return reason,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "the watch over a sandbox failed"),
            }
        }
    }

    fn look(&self, init: &Init, disk: bool) -> Option<String> {
        if uses_more_than(&init.others(), self.memory_bytes) {
            return Some("out of memory".to_owned());
        }
        let too_big = disk && tree_bytes(&self.workspace).is_none_or(|bytes| bytes > self.workspace_bytes);
        too_big.then(|| format!("more than {} bytes in /workspace", self.workspace_bytes))
    }
}

/// Resident memory is quick to read but counts shared pages for each process; only when it is too much the exact
/// share is read.
fn uses_more_than(pids: &[u32], limit: u64) -> bool {
    let sum = |read: fn(u32) -> Option<u64>| pids.iter().filter_map(|pid| read(*pid)).sum::<u64>();
    sum(resident_bytes) > limit && sum(proportional_bytes) > limit
}

fn field(pid: u32, file: &str, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim()
        .strip_suffix(" kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib * KIB)
}

fn resident_bytes(pid: u32) -> Option<u64> {
    field(pid, "status", "VmRSS:")
}

fn proportional_bytes(pid: u32) -> Option<u64> {
    field(pid, "smaps_rollup", "Pss:").or_else(|| resident_bytes(pid))
}

/// Bytes on disk below a directory; nothing when there are too many entries. What vanishes meanwhile is left out.
fn tree_bytes(root: &Path) -> Option<u64> {
    let (mut dirs, mut bytes, mut entries) = (vec![root.to_owned()], 0, 0);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten() {
            let Ok(meta) = entry
                .as_ref()
                .map_err(io::Error::kind)
                .and_then(|entry| std::fs::symlink_metadata(entry.path()).map_err(|error| error.kind()))
            else {
                continue;
            };
            entries += 1;
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                dirs.extend(entry.map(|entry| entry.path()));
            }
            if entries > MAX_ENTRIES {
                return None;
            }
        }
    }
    Some(bytes)
}
