//! Objects in memory, for tests: the twin of the S3 store.

use crate::objects::Object;
use bytes::Bytes;
use domain::Clock;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is kept under a key.
#[derive(Debug, Clone)]
struct Kept {
    content: Bytes,
    modified: Timestamp,
    executable: bool,
}

/// Objects by key; clones share them.
#[derive(Debug, Clone)]
pub struct MemoryObjects {
    objects: Arc<Mutex<BTreeMap<String, Kept>>>,
    clock: Arc<dyn Clock>,
}

impl MemoryObjects {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            objects: Arc::default(),
            clock,
        }
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.get_file(key).map(|(content, _)| content)
    }

    pub fn put(&self, key: &str, content: Bytes) {
        self.put_file(key, content, false);
    }

    /// Also whether it is a program.
    pub fn get_file(&self, key: &str) -> Option<(Bytes, bool)> {
        let objects = self.locked();
        let kept = objects.get(key)?;
        Some((kept.content.clone(), kept.executable))
    }

    pub fn put_file(&self, key: &str, content: Bytes, executable: bool) {
        let kept = Kept {
            content,
            modified: self.clock.now(),
            executable,
        };
        self.locked().insert(key.to_owned(), kept);
    }

    pub fn list(&self, prefix: &str) -> Vec<Object> {
        let objects = self.locked();
        let from = objects
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix));
        from.map(|(key, kept)| Object {
            key: key.clone(),
            size: kept.content.len() as u64,
            etag: None,
            modified: kept.modified,
        })
        .collect()
    }

    /// False when there is no such object.
    pub fn copy(&self, from: &str, to: &str) -> bool {
        let file = self.get_file(from);
        let found = file.is_some();
        if let Some((content, executable)) = file {
            self.put_file(to, content, executable);
        }
        found
    }

    pub fn delete(&self, keys: &[String]) {
        let mut objects = self.locked();
        for key in keys {
            objects.remove(key);
        }
    }
}
