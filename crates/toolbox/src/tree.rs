//! A workspace as a directory: put together from a manifest, looked over after the tool.
//!
//! Invariants:
//! - A manifest is checked whole before the first file is written: paths, sizes, number, files that would be directories of others.
//! - Links are never followed and never kept: only regular files reached through real directories count.
//! - A file is unchanged when nothing of its inode changed since long enough before the tool began, or when its content is the same.

mod place;
mod walk;

pub use place::Placer;
pub use walk::{Stamp, Walked, open, used, walk};

use crate::pack::copy_hashed;
use crate::wire::{File, Limits};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

/// Our own directory: no file of a tool.
pub const HIDDEN: &str = ".agent";
/// Longest path in bytes.
const MAX_PATH_BYTES: usize = 512;
/// Longest part of a path that file systems take.
const MAX_NAME_BYTES: usize = 255;
/// Times of inodes advance in steps; a change within one step is not seen in them.
const CLOCK_STEP_NANOS: i128 = 50_000_000;

/// Why a tree is refused; the first two are the texts of file tools.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("Invalid path: {0}")]
    InvalidPath(String),
    #[error("Workspace limit exceeded")]
    LimitExceeded,
    /// A manifest that no worker writes.
    #[error("the manifest is not what it should be: {0}")]
    Manifest(String),
    #[error("cannot {action} {path}: {source}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> TreeError + 'a {
    move |source| TreeError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Whether this is the only form of a path that file tools take and file systems can hold.
pub fn is_path(path: &str) -> bool {
    let plain = |part: &str| {
        // Some systems fold case, so that `.AGENT` would be the same directory there.
        let ours = part.eq_ignore_ascii_case(HIDDEN);
        !part.is_empty() && part != "." && part != ".." && !ours && part.len() <= MAX_NAME_BYTES
    };
    let odd = |char: char| char == '\\' || char.is_control();
    path.len() <= MAX_PATH_BYTES && !path.contains(odd) && path.split('/').all(plain)
}

/// Whether this is a SHA-256 as we write it.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The one of the two modes that comes nearest.
pub fn plain_mode(mode: u32) -> u32 {
    if mode & 0o100 == 0 { 0o600 } else { 0o700 }
}

/// Checks files of a manifest or delta that came from elsewhere.
///
/// # Errors
/// [`TreeError::LimitExceeded`] for too many and too large ones, [`TreeError::InvalidPath`] and [`TreeError::Manifest`]
/// for what no honest side writes.
pub fn check(files: &BTreeMap<String, File>, limits: &Limits) -> Result<(), TreeError> {
    let mut total: u64 = 0;
    let mut sizes: HashMap<&str, u64> = HashMap::new();
    for (path, file) in files {
        if !is_path(path) || parents(path).any(|parent| files.contains_key(parent)) {
            return Err(TreeError::InvalidPath(path.clone()));
        }
        if !is_sha256(&file.sha256) || !matches!(file.mode, 0o600 | 0o700) {
            return Err(TreeError::Manifest(format!("hash or mode of {path}")));
        }
        if *sizes.entry(&file.sha256).or_insert(file.bytes) != file.bytes {
            return Err(TreeError::Manifest(format!("two sizes of one content, {path}")));
        }
        total = total.saturating_add(file.bytes);
        if file.bytes > limits.file_bytes {
            return Err(TreeError::LimitExceeded);
        }
    }
    if total > limits.total_bytes || files.len() > limits.files {
        return Err(TreeError::LimitExceeded);
    }
    Ok(())
}

/// `a/b/c` has `a/b` and `a`.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(end, _)| &path[..end])
}

/// A tree as the tool found it.
#[derive(Debug)]
pub struct Before<'a> {
    files: &'a BTreeMap<String, File>,
    stamps: BTreeMap<String, Stamp>,
    /// Files changed at this time or later are looked into: the tool could have changed them within the same step of the clock.
    recent: i128,
}

impl<'a> Before<'a> {
    /// Looks over a tree that was made from `files`.
    pub fn look(root: &Path, files: &'a BTreeMap<String, File>, limits: &Limits) -> Result<Self, TreeError> {
        let stamps = walk(root, limits.files)?.files;
        let last = stamps
            .values()
            .map(Stamp::changed_nanos)
            .max()
            .unwrap_or_default();
        Ok(Self {
            files,
            stamps,
            recent: last - CLOCK_STEP_NANOS,
        })
    }

    fn is_same(&self, path: &str, now: &Stamp) -> bool {
        let before = self.stamps.get(path);
        before == Some(now) && now.changed_nanos() < self.recent
    }
}

/// What a tool did to its files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    pub added: BTreeMap<String, File>,
    pub changed: BTreeMap<String, File>,
    pub deleted: Vec<String>,
    /// Files whose names cannot be kept, in the words of file tools; all others are told above.
    pub fault: Option<String>,
}

impl Changes {
    /// Contents that were not there before, with a path each has.
    pub fn contents(&self) -> BTreeMap<&str, (&str, u64)> {
        let all = self.added.iter().chain(&self.changed);
        all.map(|(path, file)| (file.sha256.as_str(), (path.as_str(), file.bytes)))
            .collect()
    }
}

/// Compares a tree that nobody changes any more with what was there before.
///
/// # Errors
/// [`TreeError::LimitExceeded`] for what is too much: then nothing of it is kept.
pub fn changes(root: &Path, before: &Before<'_>, limits: &Limits) -> Result<Changes, TreeError> {
    let walked = walk(root, limits.files)?;
    let (fault, found) = (walked.fault(), walked.files);
    // Files with holes may claim more than a number holds.
    let total = found
        .values()
        .fold(0, |total: u64, stamp| total.saturating_add(stamp.bytes));
    let too_large = found.values().any(|stamp| stamp.bytes > limits.file_bytes);
    if too_large || total > limits.total_bytes {
        return Err(TreeError::LimitExceeded);
    }
    let mut changes = Changes {
        fault,
        ..Changes::default()
    };
    for (path, stamp) in found.iter().filter(|(path, stamp)| !before.is_same(path, stamp)) {
        let now = describe(&root.join(path), stamp)?;
        match before.files.get(path) {
            Some(known) if *known == now => {}
            Some(_) => drop(changes.changed.insert(path.clone(), now)),
            None => drop(changes.added.insert(path.clone(), now)),
        }
    }
    let gone = before.files.keys().filter(|path| !found.contains_key(*path));
    changes.deleted = gone.cloned().collect();
    Ok(changes)
}

fn describe(path: &Path, stamp: &Stamp) -> Result<File, TreeError> {
    let mut content = open(path).map_err(failed("read", path))?;
    let (sha256, bytes) = copy_hashed(&mut content, &mut io::sink()).map_err(failed("read", path))?;
    if bytes != stamp.bytes {
        let changed = io::Error::other("it changes while it is read");
        return Err(failed("read", path)(changed));
    }
    Ok(File {
        sha256,
        bytes,
        mode: plain_mode(stamp.mode),
    })
}

#[cfg(test)]
mod tests;
