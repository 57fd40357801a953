//! Failures of the store itself, before any S3 request.

use std::io;
use std::path::PathBuf;

/// Why a store could not be opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or a file in it cannot be used.
    #[error("object store: cannot use {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Another process has the directory open.
    #[error("object store: {0} is in use by another process")]
    InUse(PathBuf),
    /// A line of the journal, before its last one, is not a record.
    #[error("object store: {path} is damaged at line {line}")]
    Damaged {
        path: PathBuf,
        line: usize,
        #[source]
        source: serde_json::Error,
    },
}

impl StoreError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
