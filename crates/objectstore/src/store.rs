//! The open store: index, journal and contents under one lock.

use crate::blobs::Blobs;
use crate::error::StoreError;
use crate::index::Index;
use crate::journal::Journal;
use crate::record::{Entry, Record};
use domain::{Clock, Ids, SystemClock, SystemIds};
use s3s::dto::{CopySource, ETagCondition};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};
use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use uuid::Uuid;

/// A store on a directory. Clones share it; the directory is locked until the last clone is gone.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// How many of this process's records are durable.
    synced: Mutex<u64>,
    blobs: Blobs,
    clock: Box<dyn Clock>,
    ids: Box<dyn Ids>,
    _lock: File,
}

#[derive(Debug)]
struct State {
    index: Index,
    journal: Journal,
}

impl Store {
    /// Opens the store in `dir`, which is created when missing.
    ///
    /// # Errors
    /// When the directory cannot be used, is in use by another process, or its journal is damaged.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, Box::new(SystemClock), Box::new(SystemIds))
    }

    /// The same with a given source of time and ids.
    pub fn open_with(dir: &Path, clock: Box<dyn Clock>, ids: Box<dyn Ids>) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(StoreError::io(dir))?;
        let lock = lock(dir)?;
        let blobs = Blobs::open(dir).map_err(StoreError::io(dir))?;
        let mut index = Index::default();
        let mut skipped = 0_usize;
        let mut journal = Journal::open(&dir.join("journal"), |record| {
            // Replaced contents are gone, so that a record may name a missing one; so may the last records
            // before a power loss, which were never acknowledged: the object before stays.
            match record.blob() {
                Some(content) if !blobs.exists(content.blob, content.size) => skipped += 1,
                _ => drop(index.apply(record)),
            }
        })?;
        tracing::debug!(skipped, live = index.size(), "object store: journal read");
        blobs.sweep(&index.reachable()).map_err(StoreError::io(dir))?;
        journal.compact(&index).map_err(StoreError::io(dir))?;
        Ok(Self(Arc::new(Inner {
            state: Mutex::new(State { index, journal }),
            synced: Mutex::new(0),
            blobs,
            clock,
            ids,
            _lock: lock,
        })))
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.0.clock.now().as_millisecond()
    }

    pub(crate) fn new_id(&self) -> Uuid {
        self.0.ids.uuid()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks something up.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Index) -> S3Result<T>) -> S3Result<T> {
        look(&self.state().index)
    }

    /// Decides on a change and makes it, durable on return. `decide` runs under the lock: what it checks still
    /// holds when its record is applied. A record of nothing (`None`) changes nothing.
    pub(crate) async fn change<T, F>(&self, decide: F) -> S3Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Index) -> S3Result<(Option<Record>, T)> + Send + 'static,
    {
        let store = self.clone();
        // Runs to its end even when the client goes away.
        let change = tokio::task::spawn_blocking(move || store.change_blocking(decide));
        change.await.map_err(S3Error::internal_error)?
    }

    fn change_blocking<T>(
        &self,
        decide: impl FnOnce(&Index) -> S3Result<(Option<Record>, T)>,
    ) -> S3Result<T> {
        let mut guard = self.state();
        let state = &mut *guard;
        let (record, value) = decide(&state.index)?;
        let Some(record) = record else {
            return Ok(value);
        };
        let mark = state.journal.append(&record).map_err(S3Error::internal_error)?;
        let unreachable = state.index.apply(record);
        if state.journal.wants_compaction(state.index.size()) {
            self.0.blobs.sync_names().map_err(S3Error::internal_error)?;
            state
                .journal
                .compact(&state.index)
                .map_err(S3Error::internal_error)?;
        }
        drop(guard);
        self.sync(mark).map_err(S3Error::internal_error)?;
        self.0.blobs.remove(&unreachable);
        Ok(value)
    }

    /// Returns when record `mark` is durable. One sync serves all that wait.
    fn sync(&self, mark: u64) -> io::Result<()> {
        let mut synced = self.0.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if *synced >= mark {
            return Ok(());
        }
        let (file, appended) = {
            let state = self.state();
            (state.journal.file(), state.journal.appended)
        };
        self.0.blobs.sync_names()?;
        file.sync_data()?;
        *synced = appended;
        Ok(())
    }
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(StoreError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(StoreError::Io { path, source }),
    }
}

/// The objects of a bucket, or `NoSuchBucket`.
pub(crate) fn bucket<'a>(index: &'a Index, name: &str) -> S3Result<&'a crate::index::Bucket> {
    index
        .buckets
        .get(name)
        .ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))
}

/// An object, or `NoSuchBucket` or `NoSuchKey`.
pub(crate) fn object<'a>(index: &'a Index, name: &str, key: &str) -> S3Result<&'a Entry> {
    bucket(index, name)?
        .objects
        .get(key)
        .ok_or_else(|| s3_error!(NoSuchKey, "The specified key does not exist."))
}

/// The source of a copy, as bucket and key.
pub(crate) fn copy_source(source: &CopySource) -> S3Result<(String, String)> {
    match source {
        CopySource::Bucket { bucket, key, .. } => Ok((bucket.to_string(), key.to_string())),
        _ => Err(s3_error!(
            NotImplemented,
            "Only bucket/key copy sources are supported"
        )),
    }
}

/// The two conditions of a write.
#[derive(Debug, Clone, Default)]
pub(crate) struct Conditions {
    pub if_match: Option<ETagCondition>,
    pub if_none_match: Option<ETagCondition>,
}

impl Conditions {
    /// Whether the write may go on over `current`.
    pub(crate) fn check(&self, current: Option<&Entry>) -> S3Result<()> {
        let etag = current.map(|entry| entry.content.etag.as_str());
        if let Some(wanted) = &self.if_match {
            let Some(etag) = etag else {
                return Err(s3_error!(NoSuchKey, "The specified key does not exist."));
            };
            if !matches(wanted, etag) {
                return Err(failed());
            }
        }
        match (&self.if_none_match, etag) {
            (Some(unwanted), Some(etag)) if matches(unwanted, etag) => Err(failed()),
            _ => Ok(()),
        }
    }
}

pub(crate) fn matches(condition: &ETagCondition, etag: &str) -> bool {
    condition.is_any() || condition.as_etag().is_some_and(|wanted| wanted.value() == etag)
}

pub(crate) fn failed() -> S3Error {
    S3Error::with_message(
        S3ErrorCode::PreconditionFailed,
        "At least one of the pre-conditions you specified did not hold",
    )
}
