//! Objects in memory, for tests: the twin of the S3 store.

use crate::objects::Object;
use bytes::Bytes;
use domain::Clock;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Objects by key; clones share them.
#[derive(Debug, Clone)]
pub struct MemoryObjects {
    objects: Arc<Mutex<BTreeMap<String, (Bytes, Timestamp)>>>,
    clock: Arc<dyn Clock>,
}

impl MemoryObjects {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            objects: Arc::default(),
            clock,
        }
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, (Bytes, Timestamp)>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.locked().get(key).map(|(content, _)| content.clone())
    }

    pub fn put(&self, key: &str, content: Bytes) {
        let now = self.clock.now();
        self.locked().insert(key.to_owned(), (content, now));
    }

    pub fn list(&self, prefix: &str) -> Vec<Object> {
        let objects = self.locked();
        let from = objects
            .range(prefix.to_owned()..)
            .take_while(|(key, _)| key.starts_with(prefix));
        from.map(|(key, (content, modified))| Object {
            key: key.clone(),
            size: content.len() as u64,
            etag: None,
            modified: *modified,
        })
        .collect()
    }

    /// False when there is no such object.
    pub fn copy(&self, from: &str, to: &str) -> bool {
        let content = self.get(from);
        let found = content.is_some();
        if let Some(content) = content {
            self.put(to, content);
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
