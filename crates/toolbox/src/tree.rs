//! A workspace as a directory: put together from a manifest, looked over after the tool.
//!
//! Invariants:
//! - A manifest is checked whole before the first file is written: paths, sizes, number, files that would be directories of others.
//! - Links are never followed and never kept: only regular files reached through real directories count.
//! - A file is unchanged when nothing of its inode changed since long enough before the tool began, or when its content is the same.

use crate::pack::{PackError, copy_hashed};
use crate::wire::{File, Limits};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{DirBuilder, Metadata, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Our own directory: no file of a tool.
pub const HIDDEN: &str = ".agent";
/// Longest path in bytes.
const MAX_PATH_BYTES: usize = 512;
/// Longest part of a path that file systems take.
const MAX_NAME_BYTES: usize = 255;
/// Directories, links and the like beside the files, before a tree is too large to look at.
const MAX_OTHERS: usize = 200_000;
/// Times of inodes advance in steps; a change within one step is not seen in them.
const CLOCK_STEP_NANOS: i128 = 50_000_000;
const NANOS: i128 = 1_000_000_000;
/// Without these, reading a file that was exchanged for something else could lead outside or wait for ever.
const CAREFUL: nix::fcntl::OFlag = nix::fcntl::OFlag::O_NOFOLLOW.union(nix::fcntl::OFlag::O_NONBLOCK);

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

/// Puts files into an empty directory, content by content, in any order.
#[derive(Debug)]
pub struct Placer<'a> {
    root: &'a Path,
    /// What is still missing, by content.
    wanted: HashMap<&'a str, Vec<(&'a str, &'a File)>>,
    dirs: HashSet<PathBuf>,
}

impl<'a> Placer<'a> {
    /// `files` have passed [`check`].
    pub fn new(root: &'a Path, files: &'a BTreeMap<String, File>) -> Self {
        let mut wanted: HashMap<&str, Vec<_>> = HashMap::new();
        for (path, file) in files {
            let places = wanted.entry(file.sha256.as_str()).or_default();
            places.push((path.as_str(), file));
        }
        Self {
            root,
            wanted,
            dirs: HashSet::new(),
        }
    }

    /// The size of a content that is still missing.
    pub fn wants(&self, sha256: &str) -> Option<u64> {
        let (_, file) = self.wanted.get(sha256)?.first()?;
        Some(file.bytes)
    }

    /// A path that has no content yet.
    pub fn missing(&self) -> Option<&str> {
        let (path, _) = self.wanted.values().next()?.first()?;
        Some(path)
    }

    /// Writes a content to each of its paths; `content` fails at its end when it is not what it should be.
    pub fn place(&mut self, sha256: &str, content: &mut dyn Read) -> Result<(), PackError> {
        let Some(places) = self.wanted.get(sha256).cloned() else {
            return Ok(());
        };
        let mut written = vec![];
        if let Err(error) = self.write_all(&places, content, &mut written) {
            // Another try writes them from their start.
            for path in written {
                std::fs::remove_file(path)?;
            }
            return Err(error.into());
        }
        self.wanted.remove(sha256);
        Ok(())
    }

    /// The first from `content`, the others from the first.
    fn write_all(
        &mut self,
        places: &[(&str, &File)],
        content: &mut dyn Read,
        written: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        for (path, file) in places {
            let path = self.root.join(path);
            self.make_dirs(&path)?;
            let mut out = create(&path, file.mode)?;
            let first = written.first().map(std::fs::File::open).transpose();
            written.push(path);
            match first? {
                None => io::copy(content, &mut out)?,
                Some(mut first) => io::copy(&mut first, &mut out)?,
            };
        }
        Ok(())
    }

    fn make_dirs(&mut self, file: &Path) -> io::Result<()> {
        match file.parent() {
            Some(dir) if !self.dirs.contains(dir) => {
                DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
                self.dirs.insert(dir.to_owned());
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn create(path: &Path, mode: u32) -> io::Result<std::fs::File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .custom_flags(CAREFUL.bits())
        .open(path)
}

/// What the kernel changes when a file is written; a program cannot set the change time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    pub bytes: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            inode: meta.ino(),
            bytes: meta.len(),
            mode: meta.mode(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    fn changed_nanos(&self) -> i128 {
        i128::from(self.changed.0) * NANOS + i128::from(self.changed.1)
    }
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
        let stamps = walk(root, limits.files)?;
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
/// [`TreeError::LimitExceeded`] and [`TreeError::InvalidPath`] for what may not be kept: then nothing of it is.
pub fn changes(root: &Path, before: &Before<'_>, limits: &Limits) -> Result<Changes, TreeError> {
    let found = walk(root, limits.files)?;
    let total: u64 = found.values().map(|stamp| stamp.bytes).sum();
    let too_large = found.values().any(|stamp| stamp.bytes > limits.file_bytes);
    if too_large || total > limits.total_bytes {
        return Err(TreeError::LimitExceeded);
    }
    let mut changes = Changes::default();
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

/// Opens a regular file for reading, without following a link in its last part.
pub fn open(path: &Path) -> io::Result<std::fs::File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(CAREFUL.bits());
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            permit(path, 0o600)?;
            options.open(path)
        }
        other => other,
    }
}

/// A program may take our own permissions away; it is still our directory.
fn permit(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(mode))
}

/// All regular files below `root` that are reached without a link, our own directory left out.
pub fn walk(root: &Path, max_files: usize) -> Result<BTreeMap<String, Stamp>, TreeError> {
    let (mut found, mut others) = (BTreeMap::new(), 0);
    let mut dirs = vec![String::new()];
    while let Some(dir) = dirs.pop() {
        let full = root.join(&dir);
        for entry in list(&full).map_err(failed("list", &full))? {
            let (name, meta) = entry.map_err(failed("look at", &full))?;
            if dir.is_empty() && name == HIDDEN {
                continue;
            }
            let kept = meta.is_dir() || meta.is_file();
            let path = match name.to_str() {
                Some(name) if dir.is_empty() => name.to_owned(),
                Some(name) => format!("{dir}/{name}"),
                None => format!("{dir}/{}", name.display()),
            };
            // A directory counts by its files: an empty one of any name is left out like all empty ones.
            let unusable = if meta.is_file() {
                !is_path(&path)
            } else {
                path.len() > MAX_PATH_BYTES
            };
            if kept && (name.to_str().is_none() || unusable) {
                return Err(TreeError::InvalidPath(path));
            }
            if meta.is_file() {
                found.insert(path, Stamp::of(&meta));
            } else {
                others += 1;
                dirs.extend(meta.is_dir().then_some(path));
            }
            if found.len() > max_files || others > MAX_OTHERS {
                return Err(TreeError::LimitExceeded);
            }
        }
    }
    Ok(found)
}

type Entry = io::Result<(std::ffi::OsString, Metadata)>;

fn list(dir: &Path) -> io::Result<impl Iterator<Item = Entry> + use<>> {
    let listed = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            permit(dir, 0o700)?;
            std::fs::read_dir(dir)?
        }
        other => other?,
    };
    // Looking at an entry needs more than reading the directory does.
    let meta = std::fs::symlink_metadata(dir)?;
    if meta.mode() & 0o700 != 0o700 {
        permit(dir, 0o700)?;
    }
    Ok(listed.map(|entry| {
        let entry = entry?;
        Ok((entry.file_name(), entry.metadata()?))
    }))
}

/// Files and bytes below a directory while a tool changes it; what vanishes meanwhile is left out. Ends early beyond `max_files`.
pub fn used(root: &Path, max_files: usize) -> (usize, u64) {
    let (mut dirs, mut files, mut bytes) = (vec![root.to_owned()], 0, 0);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            files += 1;
            // On disk: a file with holes may look larger than it is.
            bytes += meta.blocks() * 512;
            if meta.is_dir() {
                dirs.push(entry.path());
            }
            if files > max_files {
                return (files, bytes);
            }
        }
    }
    (files, bytes)
}

#[cfg(test)]
mod tests;
