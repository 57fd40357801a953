//! The stores behind workspaces, and the choice between them.

use crate::memory::MemoryObjects;
use crate::options::{S3Options, SizeLimits, StoreOptions};
use crate::run::RunWorkspace;
use crate::s3::S3Objects;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use domain::files::WorkspaceError;
use domain::{RunId, UserId};
use std::collections::BTreeSet;
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

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub objects: Vec<Object>,
    /// There are further ones.
    pub more: bool,
}

/// The content of an object as it comes.
#[derive(Debug)]
pub struct Content(ByteStream);

impl Content {
    pub(crate) const fn new(body: ByteStream) -> Self {
        Self(body)
    }

    /// The next piece; nothing after the last one. A connection that is cut is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, WorkspaceError> {
        let piece = self.0.next().await.transpose();
        piece.map_err(|error| WorkspaceError::Storage(format!("GetObject: body cut: {error}")))
    }

    /// All of it.
    pub async fn whole(self) -> Result<Bytes, WorkspaceError> {
        let body = self.0.collect().await;
        let body = body.map_err(|error| WorkspaceError::Storage(format!("GetObject: body cut: {error}")))?;
        Ok(body.into_bytes())
    }
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

    /// The content as it comes, or nothing when there is no such object.
    pub async fn open(&self, key: &str) -> Result<Option<Content>, WorkspaceError> {
        match self {
            Self::S3(s3) => s3.open(key).await,
            Self::Memory(memory) => Ok(memory
                .get(key)
                .map(|content| Content::new(ByteStream::from(content)))),
        }
    }

    /// The size, or nothing when there is no such object.
    pub async fn size(&self, key: &str) -> Result<Option<u64>, WorkspaceError> {
        match self {
            Self::S3(s3) => s3.size(key).await,
            Self::Memory(memory) => Ok(memory.get(key).map(|content| content.len() as u64)),
        }
    }

    /// An address that gives the object to whoever has it, for as long as said; a browser keeps it under `name`.
    pub async fn link(&self, key: &str, valid_for: Duration, name: &str) -> Result<String, WorkspaceError> {
        match self {
            Self::S3(s3) => s3.link(key, valid_for, name).await,
            Self::Memory(_) => Err(without_urls()),
        }
    }

    /// Copies an object within the store; false when there is none.
    pub async fn copy(&self, from: &str, to: &str) -> Result<bool, WorkspaceError> {
        match self {
            Self::S3(s3) => s3.copy(from, to).await,
            Self::Memory(memory) => Ok(memory.copy(from, to)),
        }
    }

    /// At most `limit` (up to 1000) objects whose key starts with `prefix` and comes after `after`.
    pub async fn page(&self, prefix: &str, after: Option<&str>, limit: u16) -> Result<Page, WorkspaceError> {
        match self {
            Self::S3(s3) => s3.page(prefix, after, limit).await,
            Self::Memory(memory) => {
                let later = |object: &Object| after.is_none_or(|after| object.key.as_str() > after);
                let all = memory.list(prefix).into_iter().filter(later);
                let mut objects: Vec<Object> = all.take(usize::from(limit) + 1).collect();
                let more = objects.len() > usize::from(limit);
                objects.truncate(usize::from(limit));
                Ok(Page { objects, more })
            }
        }
    }

    /// What the keys below `prefix` go on with up to the next slash, as whole prefixes.
    pub async fn dirs(&self, prefix: &str) -> Result<Vec<String>, WorkspaceError> {
        match self {
            Self::S3(s3) => s3.dirs(prefix).await,
            Self::Memory(memory) => {
                let objects = memory.list(prefix);
                let dir = |object: &Object| {
                    let (dir, _) = object.key.strip_prefix(prefix)?.split_once('/')?;
                    Some(format!("{prefix}{dir}/"))
                };
                let dirs: BTreeSet<String> = objects.iter().filter_map(dir).collect();
                Ok(dirs.into_iter().collect())
            }
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

    /// As [`Workspaces::for_reading`]; addresses handed out name `endpoint`, where the store is seen from outside.
    pub fn linked_at(options: &StoreOptions, endpoint: &str) -> Self {
        let store = |keys| S3Objects::new(options, keys).linked_at(options, keys, endpoint);
        Self {
            objects: options.keys().map(|keys| Objects::S3(store(keys))),
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

/// For what goes to and comes from a tool.
impl Objects {
    /// Stores a file of a tool, which may be a program (`executable`); gives back the store's mark of its content, as a listing
    /// has it.
    pub async fn put_file(
        &self,
        key: &str,
        content: Bytes,
        (mime_type, executable): (&str, bool),
    ) -> Result<Option<String>, WorkspaceError> {
        match self {
            Self::S3(s3) => s3.put_file(key, content, (mime_type, executable)).await,
            Self::Memory(memory) => {
                memory.put_file(key, content, executable);
                Ok(None)
            }
        }
    }

    /// The content and whether it is a program, or nothing when there is no such object.
    pub async fn get_file(&self, key: &str) -> Result<Option<(Bytes, bool)>, WorkspaceError> {
        match self {
            Self::S3(s3) => s3.get_file(key).await,
            Self::Memory(memory) => Ok(memory.get_file(key)),
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
