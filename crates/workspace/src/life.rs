//! A run's files from outside of it: pages for downloads, copies for a retry, measuring and removing.

use crate::fold::for_all;
use crate::objects::Object;
use crate::path::{HIDDEN, WorkspacePath};
use crate::run::RunWorkspace;
use crate::{Objects, Workspaces};
use domain::RunId;
use domain::files::WorkspaceError;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Objects of one listing.
const PAGE: u16 = 1000;
/// Who asks, in the text that names missing settings.
const ASKER: &str = "the files of runs";

/// A visible file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    pub path: WorkspacePath,
    pub bytes: u64,
    pub modified: Timestamp,
}

/// Some of a run's files, by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePage {
    pub files: Vec<StoredFile>,
    /// The last path, when there are further ones.
    pub next: Option<String>,
}

/// How much something is, or was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    pub files: u64,
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

impl std::ops::AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

/// What a store holds of a run, found by its key alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRun {
    pub run_id: RunId,
    /// Start of its keys, with the last slash.
    pub prefix: String,
}

impl RunWorkspace {
    /// The visible files whose path comes after `after`, at most `limit` (up to 1000).
    pub async fn page(&self, after: Option<&str>, limit: u16) -> Result<FilePage, WorkspaceError> {
        let store = self.store(ASKER)?;
        let limit = limit.clamp(1, PAGE);
        let mut from = after.map(|after| format!("{}{after}", self.prefix()));
        let mut files: Vec<StoredFile> = vec![];
        loop {
            let page = store.page(self.prefix(), from.as_deref(), PAGE).await?;
            from = page.objects.last().map(|last| last.key.clone());
            files.extend(page.objects.into_iter().filter_map(|object| self.shown(object)));
            if files.len() > usize::from(limit) || !page.more || from.is_none() {
                break;
            }
        }
        let more = files.len() > usize::from(limit);
        files.truncate(usize::from(limit));
        let last = files.last().filter(|_| more);
        let next = last.map(|file| file.path.to_string());
        Ok(FilePage { files, next })
    }

    fn shown(&self, object: Object) -> Option<StoredFile> {
        Some(StoredFile {
            path: self.visible(&object.key)?,
            bytes: object.size,
            modified: object.modified,
        })
    }

    /// The size of a file; nothing when there is none.
    pub async fn size(&self, path: &WorkspacePath) -> Result<Option<u64>, WorkspaceError> {
        self.store(ASKER)?.size(&self.key(path)).await
    }

    /// An address that gives the file to whoever has it, for as long as said.
    pub async fn link(
        &self,
        path: &WorkspacePath,
        valid_for: std::time::Duration,
    ) -> Result<String, WorkspaceError> {
        let name = path.as_str().rsplit('/').next().unwrap_or_default();
        self.store(ASKER)?.link(&self.key(path), valid_for, name).await
    }

    /// Copies every visible file of another run to here, within the store. What an earlier try has copied is not copied
    /// again; a file that is here already is replaced.
    ///
    /// # Errors
    /// [`WorkspaceError::LimitExceeded`] before anything is copied.
    pub async fn copy_from(&self, source: &Self) -> Result<Amount, WorkspaceError> {
        let store = self.store(ASKER)?;
        let files = source.files(store, "").await?;
        let total: u64 = files.iter().map(|(_, object)| object.size).sum();
        let limits = self.limits();
        if total > limits.total || files.iter().any(|(_, object)| object.size > limits.file) {
            return Err(WorkspaceError::LimitExceeded);
        }
        let mut usage = self.usage(store).await?;
        let here = store.list(self.prefix()).await?;
        let here: BTreeMap<String, Object> = here.into_iter().map(|one| (one.key.clone(), one)).collect();
        let is_here = |key: &str, object: &Object| {
            let copied = here.get(key);
            copied.is_some_and(|copy| {
                copy.size == object.size && copy.etag.is_some() && copy.etag == object.etag
            })
        };
        let mut amount = Amount::default();
        let mut due = vec![];
        for (path, object) in files {
            let key = self.key(&path);
            amount.add(object.size);
            if !is_here(&key, &object) {
                due.push((object.key, key, object.size));
            }
        }
        let copied = for_all(due, |(from, to, size)| async move {
            Ok(store.copy(&from, &to).await?.then_some((to, size)))
        })
        .await?;
        usage.get_or_insert_default().extend(copied.into_iter().flatten());
        Ok(amount)
    }

    /// How many visible files there are.
    pub async fn measure(&self) -> Result<Amount, WorkspaceError> {
        let store = self.store(ASKER)?;
        let mut amount = Amount::default();
        for (_, object) in self.files(store, "").await? {
            amount.add(object.size);
        }
        Ok(amount)
    }

    /// Removes everything, ours included; may be done again after it was cut off.
    pub async fn remove_all(&self) -> Result<Amount, WorkspaceError> {
        remove(self.store(ASKER)?, self.prefix()).await
    }

    /// Removes what is ours: packs, tools' outputs.
    pub async fn remove_hidden(&self) -> Result<Amount, WorkspaceError> {
        remove(self.store(ASKER)?, &format!("{}{HIDDEN}/", self.prefix())).await
    }
}

/// Removes everything below a prefix, a page at a time.
async fn remove(store: &Objects, prefix: &str) -> Result<Amount, WorkspaceError> {
    let mut removed = Amount::default();
    let mut after: Option<String> = None;
    loop {
        let page = store.page(prefix, after.as_deref(), PAGE).await?;
        let keys: Vec<String> = page.objects.iter().map(|object| object.key.clone()).collect();
        store.delete(&keys).await?;
        for object in &page.objects {
            removed.add(object.size);
        }
        after = keys.into_iter().next_back();
        if !page.more || after.is_none() {
            return Ok(removed);
        }
    }
}

impl Workspaces {
    fn store(&self) -> Result<&Objects, WorkspaceError> {
        self.objects().ok_or_else(|| WorkspaceError::NotConfigured {
            tool: ASKER.to_owned(),
            settings: crate::run::SETTINGS.to_owned(),
        })
    }

    /// Every run the store holds something of, whoever's it is.
    pub async fn stored_runs(&self) -> Result<Vec<StoredRun>, WorkspaceError> {
        let store = self.store()?;
        let mut found = vec![];
        for user in store.dirs("users/").await? {
            for prefix in store.dirs(&format!("{user}runs/")).await? {
                let name = prefix
                    .trim_end_matches('/')
                    .rsplit('/')
                    .next()
                    .unwrap_or_default();
                if let Ok(run_id) = name.parse() {
                    found.push(StoredRun { run_id, prefix });
                }
            }
        }
        Ok(found)
    }

    /// How much there is of a stored run, and when the newest of it was written.
    pub async fn weigh(&self, run: &StoredRun) -> Result<(Amount, Option<Timestamp>), WorkspaceError> {
        let objects = self.store()?.list(&run.prefix).await?;
        let mut amount = Amount::default();
        for object in &objects {
            amount.add(object.size);
        }
        Ok((amount, objects.iter().map(|object| object.modified).max()))
    }

    /// Removes all of a stored run.
    pub async fn remove(&self, run: &StoredRun) -> Result<Amount, WorkspaceError> {
        remove(self.store()?, &run.prefix).await
    }
}
