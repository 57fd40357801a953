//! What the tool left: the delta of its files, its output, and the record as the last.
//!
//! The store wants to know the length of a body before it comes, and there is no room for an archive beside the files. So it is
//! made twice when it is large: once to learn its length and hash, once to send it.

use crate::Failure;
use crate::http::{Store, StoreError, Target};
use crate::output::Captured;
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toolbox::pack::{PackError, Packed, Packer};
use toolbox::tree::{self, Before, Changes, TreeError};
use toolbox::wire::{Delta, FailureClass, Limits, Order, Record};

/// An archive up to this size is kept in memory and made once.
const KEPT_BYTES: usize = 8 * 1024 * 1024;
/// Time that must be left for the record after anything else.
const FOR_THE_RECORD: Duration = Duration::from_secs(2);

fn workspace(message: impl Into<String>) -> Failure {
    Failure::new(FailureClass::Workspace, message)
}

/// What is kept of the files, and why some of them or all are not.
pub(crate) type Kept = (Option<Delta>, Option<String>);

/// Stores the delta; without a change nothing is stored.
pub(crate) fn delta(
    store: &Store,
    order: &Order,
    root: &Path,
    (before, limits): (&Before<'_>, &Limits),
) -> Result<Kept, Failure> {
    let mut changes = match tree::changes(root, before, limits) {
        Ok(changes) => changes,
        Err(error @ TreeError::LimitExceeded) => return Ok((None, Some(error.to_string()))),
        Err(error) => return Err(workspace(error.to_string())),
    };
    let fault = changes.fault.take();
    let contents: Vec<Content> = changes
        .contents()
        .into_iter()
        .map(|(sha256, (path, bytes))| Content {
            sha256: sha256.to_owned(),
            path: root.join(path),
            bytes,
        })
        .collect();
    let packed = if contents.is_empty() {
        Packed {
            sha256: String::new(),
            bytes: 0,
            unpacked_bytes: 0,
        }
    } else {
        send(store, order, &contents)?
    };
    Ok((Some(told(changes, packed)), fault))
}

fn told(changes: Changes, packed: Packed) -> Delta {
    Delta {
        sha256: packed.sha256,
        bytes: packed.bytes,
        unpacked_bytes: packed.unpacked_bytes,
        added: changes.added,
        changed: changes.changed,
        deleted: changes.deleted,
    }
}

/// A file to pack.
#[derive(Debug)]
struct Content {
    sha256: String,
    path: PathBuf,
    bytes: u64,
}

fn send(store: &Store, order: &Order, contents: &[Content]) -> Result<Packed, Failure> {
    let cannot = |error: &dyn std::fmt::Display| workspace(format!("cannot store the files: {error}"));
    let (first, packed) = pack(contents, First::default()).map_err(|error| cannot(&error))?;
    let target = Target {
        url: &order.put.delta,
        reserve: FOR_THE_RECORD,
    };
    let sent = match first.kept {
        Some(kept) => store.put(target, packed.bytes, || Ok(Cursor::new(&kept))),
        None => std::thread::scope(|scope| {
            store.put(target, packed.bytes, || {
                let (reader, writer) = io::pipe()?;
                // Ends with the pipe when the request does.
                scope.spawn(move || drop(pack(contents, writer)));
                Ok(Hashed::new(reader, &packed))
            })
        }),
    };
    sent.map_err(|error| cannot(&error))?;
    Ok(packed)
}

fn pack<W: Write>(contents: &[Content], out: W) -> Result<(W, Packed), PackError> {
    let mut packer = Packer::new(out)?;
    for content in contents {
        packer.add(&content.sha256, content.bytes, tree::open(&content.path)?)?;
    }
    packer.finish()
}

/// Keeps what is small.
#[derive(Debug)]
struct First {
    kept: Option<Vec<u8>>,
}

impl Default for First {
    fn default() -> Self {
        Self { kept: Some(vec![]) }
    }
}

impl Write for First {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(buf);
        }
        if self.kept.as_ref().is_some_and(|kept| kept.len() > KEPT_BYTES) {
            self.kept = None;
        }
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Fails before the last byte is given away when the second archive is not the first one again: then nothing is stored.
struct Hashed<'a, R> {
    inner: R,
    announced: &'a Packed,
    hasher: sha2::Sha256,
    bytes: u64,
}

impl<'a, R: Read> Hashed<'a, R> {
    fn new(inner: R, announced: &'a Packed) -> Self {
        Self {
            inner,
            announced,
            hasher: sha2::Digest::new(),
            bytes: 0,
        }
    }
}

impl<R: Read> Read for Hashed<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.bytes += count as u64;
        sha2::Digest::update(&mut self.hasher, &buf[..count]);
        let last = self.bytes >= self.announced.bytes;
        let ended = count == 0 && !buf.is_empty();
        let wrong = || toolbox::pack::hex(self.hasher.clone()) != self.announced.sha256;
        if (ended && !last) || (last && count > 0 && wrong()) {
            return Err(io::Error::other("a file changed while it was sent"));
        }
        Ok(count)
    }
}

/// Stores an output; an empty one is not stored.
pub(crate) fn output(store: &Store, url: &str, captured: &Captured) -> Result<(), Failure> {
    if captured.bytes == 0 {
        return Ok(());
    }
    let target = Target {
        url,
        reserve: FOR_THE_RECORD,
    };
    let sent = store.put(target, captured.bytes, || captured.open());
    sent.map_err(|error| workspace(format!("cannot store the output: {error}")))
}

/// Stores the record: from now on the call counts.
pub(crate) fn record(store: &Store, order: &Order, record: &Record) -> Result<(), StoreError> {
    let text = serde_json::to_vec(record).map_err(|error| StoreError::Content(error.to_string()))?;
    let target = Target {
        url: &order.put.record,
        reserve: Duration::ZERO,
    };
    store.put(target, text.len() as u64, || Ok(Cursor::new(&text)))
}
