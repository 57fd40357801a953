//! From a record to the result of a call.

use super::apply::Archive;
use super::index::{Index, Known};
use super::outcome::Outcome;
use super::{DELTA, Keys, MAX_FILES, Transport, is_uid, storage};
use crate::workspace::{HIDDEN, Objects, WorkspacePath};
use agent::ports::{SandboxError, SandboxOutput, SandboxRequest, WorkspaceError};
use domain::tool::{ArtifactRef, FileChange};
use std::collections::{BTreeMap, HashMap, HashSet};
use toolbox::live::Channel;
use toolbox::pack::Packed;
use toolbox::tree;
use toolbox::wire::{Delta, File, Record};

/// What became of the files.
#[derive(Debug, Default)]
struct Applied {
    artifacts: Vec<ArtifactRef>,
    changes: Vec<FileChange>,
    unkept: Option<String>,
}

impl Transport {
    /// Applies the files a tool left and makes its result. May be done again after any failure, and by another worker.
    ///
    /// # Errors
    /// What the record says was not done, as the local sandbox would say it; paths as file tools say them. The run's files are
    /// then as before, unless the store failed in the middle: then this is to be done again.
    pub async fn collect(
        &self,
        request: &SandboxRequest,
        record: &Record,
    ) -> Result<SandboxOutput, SandboxError> {
        if !is_uid(&record.job_uid) {
            return Err(storage("the record names no Job"));
        }
        let outcome = Outcome::of(record)?;
        let applied = match &record.delta {
            Some(delta) => self.apply(request, &record.job_uid, delta).await?,
            None => Applied::default(),
        };
        let uid = record.job_uid.as_str();
        let (stdout, stderr) = tokio::try_join!(
            self.head(request, (uid, Channel::Stdout), &record.stdout),
            self.head(request, (uid, Channel::Stderr), &record.stderr),
        )?;
        Ok(SandboxOutput {
            truncated: stdout.1 || stderr.1,
            stdout: stdout.0,
            stderr: stderr.0,
            exit_code: outcome.exit_code,
            timed_out: outcome.timed_out,
            ended_by: outcome.ended_by,
            duration_ms: i64::try_from(record.durations.run_ms).unwrap_or(i64::MAX),
            artifacts: applied.artifacts,
            ephemeral_workspace: false,
            changes: applied.changes,
            warnings: outcome.warnings,
            unkept: record.unkept.clone().or(applied.unkept),
        })
    }

    async fn apply(
        &self,
        request: &SandboxRequest,
        uid: &str,
        delta: &Delta,
    ) -> Result<Applied, SandboxError> {
        let (store, keys) = (self.store(request)?, Keys::of(request));
        let written: BTreeMap<String, File> = files(delta)?;
        if written.is_empty() && delta.deleted.is_empty() {
            return Ok(Applied::default());
        }
        tree::check(&written, &self.limits()).map_err(refused)?;
        match self.fits(store, &keys, (&written, &delta.deleted)).await {
            // Nothing is kept, but the tool ran: what it printed stays.
            Err(SandboxError::Workspace(fault @ WorkspaceError::LimitExceeded)) => {
                return Ok(Applied {
                    unkept: Some(fault.to_string()),
                    ..Applied::default()
                });
            }
            fits => fits?,
        }
        let archive = Archive {
            store,
            keys: &keys,
            key: keys.of_job(request.step_id, uid, DELTA),
            delta,
        };
        let permit = self.applying.acquire().await;
        let permit = permit.map_err(|error| SandboxError::Failed(error.to_string()))?;
        let marks = if written.is_empty() {
            HashMap::new()
        } else {
            archive.check().await?;
            archive.apply().await?
        };
        drop(permit);
        let gone: Vec<String> = delta.deleted.iter().map(|path| keys.at(path)).collect();
        store.delete(&gone).await?;
        let path = format!("{HIDDEN}/steps/{}/{uid}/{DELTA}", request.step_id);
        if let Err(error) = note(store, &keys, delta, (path, marks)).await {
            // It only saves work of the next call.
            tracing::warn!(%error, "the index of a run's archives cannot be brought up to date");
        }
        told(store, &keys, delta)
    }

    /// Whether the run's files stay within the limits.
    async fn fits(
        &self,
        store: &Objects,
        keys: &Keys,
        (written, deleted): (&BTreeMap<String, File>, &[String]),
    ) -> Result<(), SandboxError> {
        let deleted: HashSet<&str> = deleted.iter().map(String::as_str).collect();
        let others = store.list(&keys.run).await?;
        let others = others
            .iter()
            .filter_map(|object| Some((keys.visible(object)?, object.size)));
        let others: Vec<u64> = others
            .filter(|(path, _)| !written.contains_key(path) && !deleted.contains(path.as_str()))
            .map(|(_, size)| size)
            .collect();
        let total: u64 = others.iter().sum::<u64>() + written.values().map(|file| file.bytes).sum::<u64>();
        if total > self.limits.total || others.len() + written.len() > MAX_FILES {
            return Err(WorkspaceError::LimitExceeded.into());
        }
        Ok(())
    }
}

/// Added and changed ones together; each path has one fate.
fn files(delta: &Delta) -> Result<BTreeMap<String, File>, SandboxError> {
    let mut files = delta.added.clone();
    files.extend(delta.changed.clone());
    let deleted: HashSet<&String> = delta.deleted.iter().collect();
    let twice = files.len() != delta.added.len() + delta.changed.len()
        || deleted.len() != delta.deleted.len()
        || deleted.iter().any(|path| files.contains_key(*path));
    if twice {
        return Err(storage("a file of the delta has two fates"));
    }
    let is_ours = |path: &str| {
        tree::is_path(path) && WorkspacePath::parse(path).is_ok_and(|parsed| parsed.as_str() == path)
    };
    match files.keys().chain(&delta.deleted).find(|path| !is_ours(path)) {
        Some(path) => Err(WorkspaceError::InvalidPath(path.clone()).into()),
        None => Ok(files),
    }
}

fn refused(error: tree::TreeError) -> SandboxError {
    match error {
        tree::TreeError::LimitExceeded => WorkspaceError::LimitExceeded.into(),
        tree::TreeError::InvalidPath(path) => WorkspaceError::InvalidPath(path).into(),
        other => storage(other),
    }
}

/// The delta is an archive like any other: the next input takes it as it is.
async fn note(
    store: &Objects,
    keys: &Keys,
    delta: &Delta,
    (path, marks): (String, HashMap<String, String>),
) -> Result<(), WorkspaceError> {
    let mut index = Index::load(store, keys).await?;
    if delta.bytes > 0 {
        let packed = Packed {
            sha256: delta.sha256.clone(),
            bytes: delta.bytes,
            unpacked_bytes: delta.unpacked_bytes,
        };
        index.add_pack(&packed, path);
    }
    for (path, file) in delta.added.iter().chain(&delta.changed) {
        match marks.get(path) {
            Some(mark) => {
                let known = Known {
                    etag: mark.clone(),
                    file: file.clone(),
                    pack: delta.sha256.clone(),
                };
                index.files.insert(path.clone(), known);
            }
            None => drop(index.files.remove(path)),
        }
    }
    for path in &delta.deleted {
        index.files.remove(path);
    }
    index.save(store, keys).await
}

fn told(store: &Objects, keys: &Keys, delta: &Delta) -> Result<Applied, SandboxError> {
    let mut applied = Applied::default();
    let added = delta.added.iter().map(|file| (file, false));
    let changed = delta.changed.iter().map(|file| (file, true));
    for ((path, file), was_there) in added.chain(changed) {
        let artifact = ArtifactRef {
            file_path: path.clone(),
            file_size: i64::try_from(file.bytes).unwrap_or(i64::MAX),
            content_hash: file.sha256.clone(),
            mime_type: WorkspacePath::parse(path)?.mime_type(),
            storage_bucket: store.bucket().to_owned(),
            storage_key: keys.at(path),
        };
        applied.changes.push(FileChange::stored(&artifact, was_there));
        applied.artifacts.push(artifact);
    }
    applied
        .changes
        .extend(delta.deleted.iter().map(FileChange::deleted));
    applied.changes.sort_by(|a, b| a.path.cmp(&b.path));
    applied.artifacts.sort_by(|a, b| a.file_path.cmp(&b.file_path));
    Ok(applied)
}
