//! The stores behind workspaces, and the choice between them.

use crate::memory::MemoryObjects;
use crate::options::{S3Options, SizeLimits, StoreOptions};
use crate::run::RunWorkspace;
use crate::s3::S3Objects;
use bytes::Bytes;
use domain::files::WorkspaceError;
use domain::{RunId, UserId};
use std::ops::Range;
use std::time::Duration;

/// An object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub key: String,
    pub size: u64,
    /// The store's mark of the content, where it has one.
    pub etag: Option<String>,
    pub modified: jiff::Timestamp,
}

/// Where objects are kept. Keys are whole keys; all errors are [`WorkspaceError::Storage`].
#[derive(Debug, Clone)]
pub enum Objects {
    S3(S3Objects),
    Memory(MemoryObjects),
}

impl Objects {
    /// Name of the bucket.
    pub fn bucket(&self) -> &str {
        match self {
            Self::S3(s3) => s3.bucket(),
            Self::Memory(_) => "memory",
        }
    }

    /// The content, or nothing when there is no such object.
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, WorkspaceError> {
        match self {
            Self::S3(s3) => s3.get(key).await,
            Self::Memory(memory) => Ok(memory.get(key)),
        }
    }

    /// Stores a whole object.
    pub async fn put(&self, key: &str, content: Bytes, mime_type: &str) -> Result<(), WorkspaceError> {
        match self {
            Self::S3(s3) => s3.put(key, content, mime_type).await,
            Self::Memory(memory) => {
                memory.put(key, content);
                Ok(())
            }
        }
    }

    /// Every object whose key starts with `prefix`, by key.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Object>, WorkspaceError> {
        match self {
            Self::S3(s3) => s3.list(prefix).await,
            Self::Memory(memory) => Ok(memory.list(prefix)),
        }
    }

    /// Deletes any number of objects; missing ones are no error.
    pub async fn delete(&self, keys: &[String]) -> Result<(), WorkspaceError> {
        match self {
            Self::S3(s3) => s3.delete(keys).await,
            Self::Memory(memory) => {
                memory.delete(keys);
                Ok(())
            }
        }
    }
}

/// All workspaces of the process: hands out the one of a run.
#[derive(Debug, Clone)]
pub struct Workspaces {
    objects: Option<Objects>,
    limits: SizeLimits,
}

impl Workspaces {
    /// S3 when both keys are set; else every file operation says what to set.
    pub fn from_options(options: &S3Options) -> Self {
        Self {
            limits: options.limits(),
            ..Self::for_reading(&options.store)
        }
    }

    /// The same without limits, for programs that write nothing.
    pub fn for_reading(options: &StoreOptions) -> Self {
        let keys = options.keys();
        Self {
            objects: keys.map(|keys| Objects::S3(S3Objects::new(options, keys))),
            limits: SizeLimits::NONE,
        }
    }

    /// A given store, for example [`MemoryObjects`] in tests; limits in bytes per file and per run.
    pub fn on(objects: Objects, max_file_bytes: u64, max_bytes: u64) -> Self {
        Self {
            objects: Some(objects),
            limits: SizeLimits {
                file: max_file_bytes,
                total: max_bytes,
            },
        }
    }

    pub fn is_configured(&self) -> bool {
        self.objects.is_some()
    }

    /// The store itself, when one is configured.
    pub fn objects(&self) -> Option<&Objects> {
        self.objects.as_ref()
    }

    pub fn of_run(&self, user_id: &UserId, run_id: RunId) -> RunWorkspace {
        RunWorkspace::new(self.objects.clone(), user_id, run_id, self.limits)
    }

    /// Asks the store whether it serves our bucket; at most 2 s. Fine when none is configured.
    pub async fn check(&self) -> Result<(), WorkspaceError> {
        match &self.objects {
            Some(Objects::S3(s3)) => s3.check().await,
            Some(Objects::Memory(_)) | None => Ok(()),
        }
    }
}

/// For what goes to and comes from a tool's pod.
impl Objects {
    /// Stores a whole object; gives back the store's mark of its content, as a listing has it.
    pub async fn put_marked(
        &self,
        key: &str,
        content: Bytes,
        mime_type: &str,
    ) -> Result<Option<String>, WorkspaceError> {
        match self {
            Self::S3(s3) => s3.put_marked(key, content, mime_type).await,
            Self::Memory(memory) => {
                memory.put(key, content);
                Ok(None)
            }
        }
    }

    /// A part of an object, shorter where it ends; nothing when there is no such object.
    pub async fn range(&self, key: &str, range: Range<u64>) -> Result<Option<Bytes>, WorkspaceError> {
        match self {
            Self::S3(s3) => s3.range(key, range).await,
            Self::Memory(memory) => Ok(memory.get(key).map(|content| {
                let at = |at: u64| usize::try_from(at).map_or(content.len(), |at| at.min(content.len()));
                content.slice(at(range.start).min(at(range.end))..at(range.end))
            })),
        }
    }

    /// A URL that reads this object, valid from now.
    pub async fn sign_get(&self, key: &str, valid_for: Duration) -> Result<String, WorkspaceError> {
        match self {
            Self::S3(s3) => s3.sign_get(key, valid_for).await,
            Self::Memory(_) => Err(without_urls()),
        }
    }

    /// A URL that writes this object, valid from now. `once`: with the header `If-None-Match: *`, which must be sent.
    pub async fn sign_put(
        &self,
        key: &str,
        valid_for: Duration,
        once: bool,
    ) -> Result<String, WorkspaceError> {
        match self {
            Self::S3(s3) => s3.sign_put(key, valid_for, once).await,
            Self::Memory(_) => Err(without_urls()),
        }
    }
}

fn without_urls() -> WorkspaceError {
    WorkspaceError::Storage("objects in memory have no URLs".to_owned())
}

impl Workspaces {
    /// Largest file and largest sum of a run's files.
    pub fn limits(&self) -> SizeLimits {
        self.limits
    }
}
