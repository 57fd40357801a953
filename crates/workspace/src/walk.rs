//! Looking over a directory that a program has left, without being led out of it.
//!
//! Errors name files as the program saw them, never a place of this machine.

use crate::path::{HIDDEN, MAX_PATH_BYTES, WorkspacePath};
use bytes::Bytes;
use domain::files::WorkspaceError;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Most files of a workspace that are synced.
pub(crate) const MAX_FILES: usize = 50_000;
/// Names that cannot be kept are told up to this many.
const TOLD: usize = 3;

/// What the kernel changes when a file is written; a program cannot set the change time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    pub(crate) size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self {
            inode: meta.ino(),
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    pub(crate) files: BTreeMap<WorkspacePath, Stamp>,
    /// Files that no path of ours can name, as far as they can be written down.
    odd: BTreeSet<String>,
}

impl Walked {
    /// The text of the contract for the names that cannot be kept.
    pub(crate) fn fault(&self) -> Option<String> {
        let names: Vec<&str> = self.odd.iter().take(TOLD).map(String::as_str).collect();
        let text = WorkspaceError::InvalidPath(names.join(", ")).to_string();
        match self.odd.len() {
            0 => None,
            count if count > TOLD => Some(format!("{text} and {} more", count - TOLD)),
            _ => Some(text),
        }
    }
}

/// A failure at a path below `root`.
pub(crate) fn local(action: &str, (root, path): (&Path, &Path), error: &io::Error) -> WorkspaceError {
    let below = path.strip_prefix(root).unwrap_or_else(|_| Path::new(""));
    WorkspaceError::Storage(format!("cannot {action} /workspace/{}: {error}", below.display()))
}

/// A program may take our own permissions away; it is still our directory.
pub(crate) fn permit(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Reads a regular file without following a link in its last part; also says whether it is a program.
pub(crate) fn read(root: &Path, path: &str, limit: u64) -> Result<(Bytes, bool), WorkspaceError> {
    use std::io::Read;
    let file = root.join(path);
    let cannot = |error: io::Error| local("read", (root, &file), &error);
    let executable = std::fs::symlink_metadata(&file).map_err(cannot)?.mode() & 0o100 != 0;
    let open = || {
        let mut options = std::fs::OpenOptions::new();
        options
            .read(true)
            .custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits())
            .open(&file)
    };
    let opened = match open() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            permit(&file, 0o600).and_then(|()| open())
        }
        other => other,
    };
    let mut content = vec![];
    // One more than allowed, so that a file that grows is noticed.
    opened
        .and_then(|opened| opened.take(limit + 1).read_to_end(&mut content))
        .map_err(cannot)?;
    if content.len() as u64 > limit {
        return Err(WorkspaceError::LimitExceeded);
    }
    Ok((content.into(), executable))
}

/// A directory to look into.
struct Dir {
    at: PathBuf,
    /// Its path with the last slash; empty for the root.
    prefix: String,
    /// Its path is the one it really has.
    exact: bool,
}

/// All regular files below `root` that are reached without a link, our own directory left out.
pub(crate) fn walk(root: &Path) -> Result<Walked, WorkspaceError> {
    let mut walked = Walked::default();
    let mut dirs = vec![Dir {
        at: root.to_owned(),
        prefix: String::new(),
        exact: true,
    }];
    while let Some(dir) = dirs.pop() {
        let listed = entries(&dir.at).map_err(|error| local("list", (root, &dir.at), &error))?;
        for (name, meta) in listed {
            if dir.prefix.is_empty() && name == HIDDEN {
                continue;
            }
            let path = format!("{}{}", dir.prefix, name.to_string_lossy());
            let exact = dir.exact && name.to_str().is_some();
            if meta.is_dir() && path.len() < MAX_PATH_BYTES {
                // It counts by its files: an empty one of any name is left out like all empty ones.
                dirs.push(Dir {
                    at: dir.at.join(&name),
                    prefix: format!("{path}/"),
                    exact,
                });
            } else if meta.is_file()
                && let Some(sound) = WorkspacePath::parse(&path).ok().filter(|_| exact)
            {
                walked.files.insert(sound, Stamp::of(&meta));
            } else if meta.is_dir() || meta.is_file() {
                walked.odd.insert(path);
            }
            if walked.files.len() + walked.odd.len() > MAX_FILES {
                return Err(WorkspaceError::LimitExceeded);
            }
        }
    }
    Ok(walked)
}

fn entries(dir: &Path) -> io::Result<Vec<(OsString, Metadata)>> {
    let listed = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            permit(dir, 0o700).and_then(|()| std::fs::read_dir(dir))
        }
        other => other,
    }?;
    // Looking at an entry needs more than reading the directory does.
    if std::fs::symlink_metadata(dir)?.mode() & 0o700 != 0o700 {
        permit(dir, 0o700)?;
    }
    listed
        .map(|entry| {
            let entry = entry?;
            Ok((entry.file_name(), entry.metadata()?))
        })
        .collect()
}
