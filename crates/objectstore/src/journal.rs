//! The append-only file of changes.
//!
//! A record is one line of JSON ended by a newline. A last line without its newline was being written when the
//! process died: it was never acknowledged and is cut off at the next start.

use crate::error::StoreError;
use crate::index::Index;
use crate::record::Record;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The journal is rewritten when it holds this many times the records needed …
const COMPACT_FACTOR: usize = 4;
/// … and at least this many.
const COMPACT_MIN_RECORDS: usize = 10_000;

/// The open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: Arc<File>,
    /// Bytes of whole records.
    len: u64,
    /// Records in the file.
    lines: usize,
    /// Records appended by this process; names a point to sync up to.
    pub appended: u64,
    /// A half record could not be cut off again: nothing may be appended.
    broken: bool,
}

impl Journal {
    /// Opens or creates the file and gives every whole record to `each`.
    pub(crate) fn open(path: &Path, mut each: impl FnMut(Record)) -> Result<Self, StoreError> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
            Err(error) => return Err(StoreError::io(path)(error)),
        };
        let whole = text
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let mut lines = 0;
        for line in text[..whole].split_inclusive(|byte| *byte == b'\n') {
            lines += 1;
            let record = serde_json::from_slice(line).map_err(|source| StoreError::Damaged {
                path: path.to_owned(),
                line: lines,
                source,
            })?;
            each(record);
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(StoreError::io(path))?;
        if whole < text.len() {
            tracing::warn!(
                bytes = text.len() - whole,
                "object store: cutting off an unfinished journal record"
            );
            file.set_len(whole as u64).map_err(StoreError::io(path))?;
        }
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            len: whole as u64,
            lines,
            appended: 0,
            broken: false,
        })
    }

    /// Writes a record, not yet synced.
    pub(crate) fn append(&mut self, record: &Record) -> io::Result<u64> {
        if self.broken {
            return Err(io::Error::other("the journal is damaged; restart the store"));
        }
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if let Err(error) = (&*self.file).write_all(&line) {
            self.broken = self.file.set_len(self.len).is_err();
            return Err(error);
        }
        self.len += line.len() as u64;
        self.lines += 1;
        self.appended += 1;
        Ok(self.appended)
    }

    /// The file to sync so that everything appended so far is durable.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    pub(crate) fn wants_compaction(&self, live: usize) -> bool {
        self.lines >= COMPACT_MIN_RECORDS.max(live * COMPACT_FACTOR)
    }

    /// Replaces the file by the shortest one; durable on return.
    pub(crate) fn compact(&mut self, index: &Index) -> io::Result<()> {
        let temporary = self.path.with_extension("new");
        let mut out = BufWriter::new(File::create(&temporary)?);
        let mut lines = 0;
        for record in index.records() {
            serde_json::to_writer(&mut out, &record)?;
            out.write_all(b"\n")?;
            lines += 1;
        }
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        let len = file.metadata()?.len();
        std::fs::rename(&temporary, &self.path)?;
        sync_parent(&self.path)?;
        // Reopened, because the writer above does not append.
        self.file = Arc::new(OpenOptions::new().append(true).open(&self.path)?);
        self.len = len;
        self.lines = lines;
        Ok(())
    }
}

/// Makes the names in the directory of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
