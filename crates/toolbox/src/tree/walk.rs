//! Looking over a directory that a program owns, without being led out of it.

use super::{HIDDEN, MAX_PATH_BYTES, TreeError, failed, is_path};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Directories, links and the like beside the files, before a tree is too large to look at.
const MAX_OTHERS: usize = 200_000;
const NANOS: i128 = 1_000_000_000;
/// Names that cannot be kept are told up to this many.
const TOLD: usize = 3;
/// Without these, reading a file that was exchanged for something else could lead outside or wait for ever.
pub(super) const CAREFUL: nix::fcntl::OFlag =
    nix::fcntl::OFlag::O_NOFOLLOW.union(nix::fcntl::OFlag::O_NONBLOCK);

/// What the kernel changes when a file is written; a program cannot set the change time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    pub bytes: u64,
    pub(super) mode: u32,
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

    pub(super) fn changed_nanos(&self) -> i128 {
        i128::from(self.changed.0) * NANOS + i128::from(self.changed.1)
    }
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

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Walked {
    /// By path relative to the root.
    pub files: BTreeMap<String, Stamp>,
    /// Files that no path of ours can name, as far as they can be written down.
    pub odd: BTreeSet<String>,
}

impl Walked {
    /// The text of file tools for the names that cannot be kept.
    pub fn fault(&self) -> Option<String> {
        let names: Vec<&str> = self.odd.iter().take(TOLD).map(String::as_str).collect();
        let text = TreeError::InvalidPath(names.join(", ")).to_string();
        match self.odd.len() {
            0 => None,
            count if count > TOLD => Some(format!("{text} and {} more", count - TOLD)),
            _ => Some(text),
        }
    }
}

/// A directory to look into.
struct Dir {
    at: PathBuf,
    /// Empty for the root.
    path: String,
    /// Its path is the one it really has.
    exact: bool,
}

/// All regular files below `root` that are reached without a link, our own directory left out.
pub fn walk(root: &Path, max_files: usize) -> Result<Walked, TreeError> {
    let (mut walked, mut others) = (Walked::default(), 0);
    let mut dirs = vec![Dir {
        at: root.to_owned(),
        path: String::new(),
        exact: true,
    }];
    while let Some(dir) = dirs.pop() {
        for entry in list(&dir.at).map_err(failed("list", &dir.at))? {
            let (name, meta) = entry.map_err(failed("look at", &dir.at))?;
            if dir.path.is_empty() && name == HIDDEN {
                continue;
            }
            let exact = dir.exact && name.to_str().is_some();
            let path = match dir.path.as_str() {
                "" => name.to_string_lossy().into_owned(),
                parent => format!("{parent}/{}", name.display()),
            };
            if meta.is_file() && exact && is_path(&path) {
                walked.files.insert(path, Stamp::of(&meta));
            } else if meta.is_dir() && path.len() < MAX_PATH_BYTES {
                others += 1;
                // It counts by its files: an empty one of any name is left out like all empty ones.
                let at = dir.at.join(&name);
                dirs.push(Dir { at, path, exact });
            } else if meta.is_dir() || meta.is_file() {
                walked.odd.insert(path);
            } else {
                others += 1;
            }
            if walked.files.len() + walked.odd.len() > max_files || others > MAX_OTHERS {
                return Err(TreeError::LimitExceeded);
            }
        }
    }
    Ok(walked)
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
