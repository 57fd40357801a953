//! A workspace as a directory: fetched before a program runs, stored back after it.
//!
//! Links are never followed and never stored: only regular files reached through real directories count. A file
//! counts as unchanged when nothing of its inode changed, or else when its content is the same.

use crate::fold::for_all;
use crate::objects::Objects;
use crate::path::{HIDDEN, WorkspacePath};
use crate::run::{RunWorkspace, sha256};
use bytes::Bytes;
use domain::files::WorkspaceError;
use domain::tool::{ArtifactRef, FileChange};
use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Most files of a workspace that are synced.
const MAX_FILES: usize = 50_000;

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
}

#[derive(Debug, Clone)]
struct Known {
    stamp: Stamp,
    sha256: String,
}

/// What the kernel changes when a file is written; a program cannot set the change time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

fn local(action: &str, path: &Path, error: io::Error) -> WorkspaceError {
    WorkspaceError::Storage(format!("cannot {action} {}: {error}", path.display()))
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
    /// [`WorkspaceError::LimitExceeded`] when the files are more than the limits, [`WorkspaceError::Storage`] when
    /// the store or the directory fails.
    pub async fn sync_down(&self, dir: &Path, tool: &str) -> Result<Manifest, WorkspaceError> {
        let store = self.store(tool)?;
        let files = self.files(store, "").await?;
        let total: u64 = files.iter().map(|(_, object)| object.size).sum();
        if total > self.limits().total || files.len() > MAX_FILES {
            return Err(WorkspaceError::LimitExceeded);
        }
        let known = for_all(files, |(path, object)| fetch(store, dir, path, object.key)).await?;
        Ok(Manifest {
            files: known.into_iter().flatten().collect(),
        })
    }

    /// Stores what changed in `dir` since `before` was made and deletes what is gone; everything is stored when
    /// this returns. Gives back the added and changed files, by path, and what became of every file.
    ///
    /// # Errors
    /// [`WorkspaceError::LimitExceeded`] and [`WorkspaceError::InvalidPath`] before anything is stored.
    pub async fn sync_up(&self, dir: &Path, before: &Manifest, tool: &str) -> Result<Synced, WorkspaceError> {
        let store = self.store(tool)?;
        let root = dir.to_owned();
        let found = blocking(move || walk(&root)).await?;
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
        })
    }

    /// Stores one file if its content is new.
    async fn upload(
        &self,
        store: &Objects,
        dir: &Path,
        path: WorkspacePath,
        before: &Manifest,
    ) -> Result<Option<ArtifactRef>, WorkspaceError> {
        let (file, limit) = (dir.join(path.as_str()), self.limits().file);
        let content = blocking(move || read(&file, limit)).await?;
        let artifact = self.artifact(store, &path, &content);
        if before
            .files
            .get(&path)
            .is_some_and(|known| known.sha256 == artifact.content_hash)
        {
            return Ok(None);
        }
        store
            .put(&artifact.storage_key, content, &artifact.mime_type)
            .await?;
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
    let Some(content) = store.get(&key).await? else {
        return Ok(None);
    };
    let file = dir.join(path.as_str());
    let known = blocking(move || {
        let sha256 = sha256(&content);
        let stamp = create(&file, &content).map_err(|error| local("create", &file, error))?;
        Ok(Known { stamp, sha256 })
    });
    Ok(Some((path, known.await?)))
}

fn create(file: &Path, content: &[u8]) -> io::Result<Stamp> {
    if let Some(parent) = file.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(file, content)?;
    Ok(Stamp::of(&std::fs::symlink_metadata(file)?))
}

/// Reads a regular file without following a link in its last part.
fn read(file: &Path, limit: u64) -> Result<Bytes, WorkspaceError> {
    use std::io::Read;
    let open = || {
        let mut options = std::fs::OpenOptions::new();
        options
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .open(file)
    };
    let opened = match open() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            permit(file, 0o600).and_then(|()| open())
        }
        other => other,
    };
    let opened = opened.map_err(|error| local("read", file, error))?;
    let mut content = vec![];
    // One more than allowed, so that a file that grows is noticed.
    opened
        .take(limit + 1)
        .read_to_end(&mut content)
        .map_err(|error| local("read", file, error))?;
    if content.len() as u64 > limit {
        return Err(WorkspaceError::LimitExceeded);
    }
    Ok(content.into())
}

/// A program may take our own permissions away; it is still our directory.
fn permit(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// All regular files below `root` that are reached without a link, our own directory left out.
fn walk(root: &Path) -> Result<BTreeMap<WorkspacePath, Stamp>, WorkspaceError> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![(root.to_owned(), String::new())];
    while let Some((dir, prefix)) = dirs.pop() {
        for (name, path, meta) in entries(&dir)? {
            if prefix.is_empty() && name == HIDDEN {
                continue;
            }
            let relative = format!("{prefix}{name}");
            if meta.is_dir() {
                dirs.push((path, format!("{relative}/")));
            } else if meta.is_file() {
                found.insert(WorkspacePath::parse(&relative)?, Stamp::of(&meta));
            }
            if found.len() > MAX_FILES {
                return Err(WorkspaceError::LimitExceeded);
            }
        }
    }
    Ok(found)
}

fn entries(dir: &Path) -> Result<Vec<(String, PathBuf, Metadata)>, WorkspaceError> {
    let listed = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            permit(dir, 0o700).and_then(|()| std::fs::read_dir(dir))
        }
        other => other,
    };
    let mut entries = vec![];
    for entry in listed.map_err(|error| local("list", dir, error))? {
        let entry = entry.map_err(|error| local("list", dir, error))?;
        let name = entry
            .file_name()
            .into_string()
            .map_err(|name| WorkspaceError::InvalidPath(name.to_string_lossy().into_owned()))?;
        let meta = std::fs::symlink_metadata(entry.path())
            .map_err(|error| local("look at", &entry.path(), error))?;
        entries.push((name, entry.path(), meta));
    }
    Ok(entries)
}
