//! Looking over a directory that a program owns, without being led out of it.

use super::{HIDDEN, MAX_PATH_BYTES, TreeError, failed, is_path};
use std::collections::BTreeMap;
use std::fs::{Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Directories, links and the like beside the files, before a tree is too large to look at.
const MAX_OTHERS: usize = 200_000;
const NANOS: i128 = 1_000_000_000;
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
