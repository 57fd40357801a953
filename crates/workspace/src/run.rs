//! The workspace of one run: the rules of file operations over a store.

use crate::fold::for_all;
use crate::objects::{Object, Objects};
use crate::options::SizeLimits;
use crate::path::{HIDDEN, WorkspacePath, run_prefix};
use bytes::Bytes;
use domain::clock::wire_time;
use domain::files::{FileInfo, WorkspaceError, Written};
use domain::tool::ArtifactRef;
use domain::{RunId, UserId};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{Mutex, MutexGuard};

/// What to set when there is no store.
pub(crate) const SETTINGS: &str = "S3_ACCESS_KEY and S3_SECRET_KEY";

/// Objects looked at to see whether there is a file below a path; what we do not show may be among them.
const FEW: u16 = 100;

/// Sizes by key, ours included; nothing before the first listing.
pub(crate) type Usage = Option<BTreeMap<String, u64>>;

/// The files of one run. Clones share the knowledge of how much is used; one process writes a run at a time.
#[derive(Debug, Clone)]
pub struct RunWorkspace {
    objects: Option<Objects>,
    prefix: String,
    limits: SizeLimits,
    usage: Arc<Mutex<Usage>>,
}

impl RunWorkspace {
    pub(crate) fn new(objects: Option<Objects>, user_id: &UserId, run_id: RunId, limits: SizeLimits) -> Self {
        Self {
            objects,
            prefix: run_prefix(user_id, run_id),
            limits,
            usage: Arc::default(),
        }
    }

    /// Whether there is a store; without one every operation fails naming the settings.
    pub fn is_configured(&self) -> bool {
        self.objects.is_some()
    }

    /// Start of all keys of this run, with the last slash.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Largest sum of the run's files.
    pub fn max_bytes(&self) -> u64 {
        self.limits.total
    }

    pub(crate) fn limits(&self) -> SizeLimits {
        self.limits
    }

    /// The store; without one the error names `tool` and the settings.
    pub fn store(&self, tool: &str) -> Result<&Objects, WorkspaceError> {
        self.objects
            .as_ref()
            .ok_or_else(|| WorkspaceError::NotConfigured {
                tool: tool.to_owned(),
                settings: SETTINGS.to_owned(),
            })
    }

    /// The key of a file.
    pub fn key(&self, path: &WorkspacePath) -> String {
        format!("{}{path}", self.prefix)
    }

    /// The path of a key that file tools may see.
    pub fn visible(&self, key: &str) -> Option<WorkspacePath> {
        let path = key.strip_prefix(&self.prefix)?;
        if path == HIDDEN || path.starts_with(".agent/") {
            return None;
        }
        // Directory markers (`a/`) and whatever else no tool of ours can have written.
        WorkspacePath::parse(path)
            .ok()
            .filter(|parsed| parsed.as_str() == path)
    }

    /// The sizes of all objects of the run; the lock is held while something is written.
    pub(crate) async fn usage(&self, store: &Objects) -> Result<MutexGuard<'_, Usage>, WorkspaceError> {
        let mut usage = self.usage.lock().await;
        if usage.is_none() {
            let objects = store.list(&self.prefix).await?;
            *usage = Some(
                objects
                    .into_iter()
                    .map(|object| (object.key, object.size))
                    .collect(),
            );
        }
        Ok(usage)
    }

    pub(crate) fn artifact(&self, store: &Objects, path: &WorkspacePath, content: &[u8]) -> ArtifactRef {
        ArtifactRef {
            file_path: path.to_string(),
            file_size: content.len() as i64,
            content_hash: sha256(content),
            mime_type: path.mime_type(),
            storage_bucket: store.bucket().to_owned(),
            storage_key: self.key(path),
        }
    }

    /// Fails when a file of `size` in the place of `key` would be too much.
    fn fits(&self, usage: &BTreeMap<String, u64>, key: &str, size: u64) -> Result<(), WorkspaceError> {
        let others: u64 = usage
            .iter()
            .filter(|(other, _)| *other != key)
            .map(|(_, size)| size)
            .sum();
        if size > self.limits.file || others.saturating_add(size) > self.limits.total {
            return Err(WorkspaceError::LimitExceeded);
        }
        Ok(())
    }

    /// Fails when the path is a directory, or below a file. Asks the store: programs change files beside what is known here.
    async fn has_place(&self, store: &Objects, path: &WorkspacePath) -> Result<(), WorkspaceError> {
        let below = format!("{}/", self.key(path));
        let inside = store.page(&below, None, FEW);
        let parents: Vec<String> = path.parents().map(str::to_owned).collect();
        let files = for_all(parents, |parent| async move {
            let key = format!("{}{parent}", self.prefix);
            Ok(store.size(&key).await?.map(|_| parent))
        });
        let (inside, files) = futures::try_join!(inside, files)?;
        if inside
            .objects
            .iter()
            .any(|object| self.visible(&object.key).is_some())
        {
            return Err(WorkspaceError::InvalidPath(format!("{path} (it is a directory)")));
        }
        match files.into_iter().flatten().next() {
            Some(file) => Err(WorkspaceError::InvalidPath(format!("{path} ({file} is a file)"))),
            None => Ok(()),
        }
    }

    /// The visible files below a directory, by path.
    pub(crate) async fn files(
        &self,
        store: &Objects,
        dir: &str,
    ) -> Result<Vec<(WorkspacePath, Object)>, WorkspaceError> {
        let below = if dir.is_empty() {
            self.prefix.clone()
        } else {
            format!("{}{dir}/", self.prefix)
        };
        let objects = store.list(&below).await?;
        let mut files: Vec<(WorkspacePath, Object)> = objects
            .into_iter()
            .filter_map(|object| Some((self.visible(&object.key)?, object)))
            .collect();
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(files)
    }
}

/// SHA-256 as hex.
pub fn sha256(content: &[u8]) -> String {
    format!("{:x}", Sha256::digest(content))
}

impl RunWorkspace {
    /// Why reading or writing this path would be refused before the store is asked.
    pub fn refusal(&self, path: &str) -> Option<WorkspaceError> {
        let refused = self.store("the workspace");
        refused.and_then(|_| WorkspacePath::parse(path).map(drop)).err()
    }

    /// The whole content of a file.
    ///
    /// # Errors
    /// [`WorkspaceError::InvalidPath`] and [`WorkspaceError::NotFound`] besides the store's failures.
    pub async fn read(&self, path: &str) -> Result<Bytes, WorkspaceError> {
        let store = self.store("file_read")?;
        let path = WorkspacePath::parse(path)?;
        let content = store.get(&self.key(&path)).await?;
        content.ok_or_else(|| WorkspaceError::NotFound(path.to_string()))
    }

    /// Writes a whole file and says what was stored.
    ///
    /// # Errors
    /// [`WorkspaceError::InvalidPath`], also for a directory and for what would be below a file, and
    /// [`WorkspaceError::LimitExceeded`], before anything is stored.
    pub async fn write(&self, path: &str, content: Bytes) -> Result<Written, WorkspaceError> {
        let store = self.store("file_write")?;
        let path = WorkspacePath::parse(path)?;
        let (key, size) = (self.key(&path), content.len() as u64);
        let mut usage = self.usage(store).await?;
        self.has_place(store, &path).await?;
        let used = usage.get_or_insert_default();
        self.fits(used, &key, size)?;
        let artifact = self.artifact(store, &path, &content);
        store.put(&key, content, &artifact.mime_type).await?;
        let replaced = used.insert(key, size).is_some();
        Ok(Written { artifact, replaced })
    }

    /// Every file below a directory (`""` = all), by path, any number of them.
    ///
    /// # Errors
    /// [`WorkspaceError::InvalidPath`] besides the store's failures.
    pub async fn list(&self, dir: &str) -> Result<Vec<FileInfo>, WorkspaceError> {
        let store = self.store("file_list")?;
        let dir = WorkspacePath::parse_dir(dir)?;
        let files = self.files(store, &dir).await?;
        let info = |(path, object): (WorkspacePath, Object)| FileInfo {
            filepath: path.to_string(),
            size: object.size as i64,
            last_modified: wire_time(object.modified),
        };
        Ok(files.into_iter().map(info).collect())
    }
}
