//! Contents as immutable files under random names.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The two directories of contents.
#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    accepted: PathBuf,
    incoming: PathBuf,
}

impl Blobs {
    /// Creates the directories and throws away unfinished uploads.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let blobs = Self {
            accepted: root.join("blobs"),
            incoming: root.join("incoming"),
        };
        std::fs::create_dir_all(&blobs.accepted)?;
        std::fs::create_dir_all(&blobs.incoming)?;
        for entry in std::fs::read_dir(&blobs.incoming)? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(blobs)
    }

    /// Removes every content that is not `reachable`.
    pub(crate) fn sweep(&self, reachable: &std::collections::BTreeSet<Uuid>) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.accepted)? {
            let entry = entry?;
            let id = entry
                .file_name()
                .to_str()
                .and_then(|name| Uuid::parse_str(name).ok());
            if !id.is_some_and(|id| reachable.contains(&id)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    pub(crate) fn accepted(&self, id: Uuid) -> PathBuf {
        self.accepted.join(id.to_string())
    }

    pub(crate) fn incoming(&self, id: Uuid) -> PathBuf {
        self.incoming.join(id.to_string())
    }

    pub(crate) fn exists(&self, id: Uuid, size: u64) -> bool {
        std::fs::metadata(self.accepted(id)).is_ok_and(|meta| meta.len() == size)
    }

    /// Makes a synced upload a content. Its name is durable after [`Blobs::sync_names`].
    pub(crate) fn accept(&self, id: Uuid) -> io::Result<()> {
        std::fs::rename(self.incoming(id), self.accepted(id))
    }

    pub(crate) fn sync_names(&self) -> io::Result<()> {
        File::open(&self.accepted)?.sync_all()
    }

    /// The same content under a second name.
    pub(crate) fn duplicate(&self, from: Uuid, to: Uuid) -> io::Result<()> {
        let (from, to) = (self.accepted(from), self.accepted(to));
        match std::fs::hard_link(&from, &to) {
            // No links on this file system, or too many of them.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                std::fs::copy(&from, &to)?;
                File::open(&to)?.sync_all()
            }
            other => other,
        }
    }

    /// Removes contents nobody names any more; a failure costs space until the next start only.
    pub(crate) fn remove(&self, ids: &[Uuid]) {
        for id in ids {
            if let Err(error) = std::fs::remove_file(self.accepted(*id)) {
                tracing::warn!(%id, %error, "object store: cannot remove an old content");
            }
        }
    }
}
