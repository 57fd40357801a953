//! A workspace as a directory: fetched before a program runs, stored back after it. Of a file's mode only whether its owner may
//! run it is kept.
//!
//! Links are never followed and never stored: only regular files reached through real directories count. A file
//! counts as unchanged when nothing of its inode changed, or else when its content is the same.

use crate::fold::for_all;
use crate::objects::Objects;
use crate::path::{WorkspacePath, fit_directory};
use crate::run::{RunWorkspace, sha256};
use crate::walk::{MAX_FILES, Stamp, local, permit, read, walk};
use domain::files::WorkspaceError;
use domain::tool::{ArtifactRef, FileChange};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Mode of a file that is a program. Of the others nothing is told.
const PROGRAM_MODE: u32 = 0o755;

/// What [`RunWorkspace::sync_down`] put into the directory.
#[derive(Debug, Clone, Default)]
pub struct Manifest {
    files: BTreeMap<WorkspacePath, Known>,
}

impl Manifest {
    pub fn len(&self) -> usize {
        self.files.len()
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    fn has(&self, path: &str) -> bool {
        WorkspacePath::parse(path).is_ok_and(|path| self.files.contains_key(&path))
    }
}

/// What [`RunWorkspace::sync_up`] stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Synced {
    /// Added and changed files, by path.
    pub artifacts: Vec<ArtifactRef>,
    /// What became of each file, by path.
    pub changes: Vec<FileChange>,
    /// Files whose names cannot be kept, as the error of the call; all others are stored.
    pub fault: Option<String>,
}

#[derive(Debug, Clone)]
struct Known {
    stamp: Stamp,
    sha256: String,
    executable: bool,
}

/// Runs blocking file work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WorkspaceError> + Send + 'static,
) -> Result<T, WorkspaceError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| WorkspaceError::Storage(format!("file work ended early: {error}")))?
}

impl RunWorkspace {
    /// Puts every file into `dir`, which is there and empty. `tool` is named when there is no store.
    ///
    /// # Errors
    /// [`WorkspaceError::LimitExceeded`] when the files are more than the limits, [`WorkspaceError::InvalidPath`] when no
    /// directory can hold them all, [`WorkspaceError::Storage`] when the store or the directory fails.
    pub async fn sync_down(&self, dir: &Path, tool: &str) -> Result<Manifest, WorkspaceError> {
        let store = self.store(tool)?;
        let files = self.files(store, "").await?;
        let total: u64 = files.iter().map(|(_, object)| object.size).sum();
        if total > self.limits().total || files.len() > MAX_FILES {
            return Err(WorkspaceError::LimitExceeded);
        }
        fit_directory(files.iter().map(|(path, _)| path.as_str()))?;
        let known = for_all(files, |(path, object)| fetch(store, dir, path, object.key)).await?;
        Ok(Manifest {
            files: known.into_iter().flatten().collect(),
        })
    }

    /// Stores what changed in `dir` since `before` was made and deletes what is gone; everything is stored when
    /// this returns. Gives back the added and changed files, by path, and what became of every file.
    ///
    /// # Errors
    /// [`WorkspaceError::LimitExceeded`] before anything is stored.
    pub async fn sync_up(&self, dir: &Path, before: &Manifest, tool: &str) -> Result<Synced, WorkspaceError> {
        let store = self.store(tool)?;
        let root = dir.to_owned();
        let walked = blocking(move || walk(&root)).await?;
        let (fault, found) = (walked.fault(), walked.files);
        let total: u64 = found.values().map(|stamp| stamp.size).sum();
        let too_large = found.values().any(|stamp| stamp.size > self.limits().file);
        if too_large || total > self.limits().total {
            return Err(WorkspaceError::LimitExceeded);
        }
        let mut usage = self.usage(store).await?;
        // Owned paths: futures over borrowed ones are not general enough to be sent between threads.
        let changed = |(path, stamp): (&WorkspacePath, &Stamp)| {
            let same = before.files.get(path).is_some_and(|known| known.stamp == *stamp);
            (!same).then(|| path.clone())
        };
        let touched: Vec<WorkspacePath> = found.iter().filter_map(changed).collect();
        let uploads = for_all(touched, |path| self.upload(store, dir, path, before)).await?;
        let deleted: Vec<&WorkspacePath> = before
            .files
            .keys()
            .filter(|path| !found.contains_key(path))
            .collect();
        let gone: Vec<String> = deleted.iter().map(|path| self.key(path)).collect();
        store.delete(&gone).await?;
        let artifacts: Vec<ArtifactRef> = uploads.into_iter().flatten().collect();
        let used = usage.get_or_insert_default();
        used.retain(|key, _| !gone.contains(key));
        used.extend(
            artifacts
                .iter()
                .map(|file| (file.storage_key.clone(), file.file_size as u64)),
        );
        let was_there = |file: &ArtifactRef| before.has(&file.file_path);
        let stored = artifacts
            .iter()
            .map(|file| FileChange::stored(file, was_there(file)));
        let deleted = deleted.iter().map(|path| FileChange::deleted(path.as_str()));
        let mut told: Vec<FileChange> = stored.chain(deleted).collect();
        told.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Synced {
            artifacts,
            changes: told,
            fault,
        })
    }

    /// Stores one file if its content is new, or if it became a program or none.
    async fn upload(
        &self,
        store: &Objects,
        dir: &Path,
        path: WorkspacePath,
        before: &Manifest,
    ) -> Result<Option<ArtifactRef>, WorkspaceError> {
        let (root, file, limit) = (dir.to_owned(), path.clone(), self.limits().file);
        let (content, executable) = blocking(move || read(&root, file.as_str(), limit)).await?;
        let artifact = self.artifact(store, &path, &content);
        let same = |known: &Known| known.sha256 == artifact.content_hash && known.executable == executable;
        if before.files.get(&path).is_some_and(same) {
            return Ok(None);
        }
        let form = (artifact.mime_type.as_str(), executable);
        store.put_file(&artifact.storage_key, content, form).await?;
        Ok(Some(artifact))
    }
}

/// Fetches one file; nothing when it was deleted meanwhile.
async fn fetch(
    store: &Objects,
    dir: &Path,
    path: WorkspacePath,
    key: String,
) -> Result<Option<(WorkspacePath, Known)>, WorkspaceError> {
    let Some((content, executable)) = store.get_file(&key).await? else {
        return Ok(None);
    };
    let (root, file) = (dir.to_owned(), dir.join(path.as_str()));
    let known = blocking(move || {
        let sha256 = sha256(&content);
        let stamp =
            create(&file, &content, executable).map_err(|error| local("create", (&root, &file), &error))?;
        Ok(Known {
            stamp,
            sha256,
            executable,
        })
    });
    Ok(Some((path, known.await?)))
}

fn create(file: &Path, content: &[u8], executable: bool) -> io::Result<Stamp> {
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(file, content)?;
    if executable {
        permit(file, PROGRAM_MODE)?;
    }
    Ok(Stamp::of(&std::fs::symlink_metadata(file)?))
}
