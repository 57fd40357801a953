//! Directories of running steps.
//!
//! `{scratch}/{instance}/` belongs to one process, which holds a lock on its file `lock`; what a dead process left
//! is removed by the next one to start. Below it each step has `workspace`, `code` and `state`.

use domain::{Ids, SystemIds};
use std::fs::{DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Stubs for `/etc`: the one user there is inside.
const STUBS: [(&str, &str); 4] = [
    ("passwd", "nobody:x:65534:65534:nobody:/workspace:/bin/sh\n"),
    ("group", "nogroup:x:65534:\n"),
    ("hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n"),
    ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
];

/// This process's directory; removed with the last clone.
#[derive(Debug, Clone)]
pub(super) struct Scratch(Arc<Instance>);

#[derive(Debug)]
struct Instance {
    dir: PathBuf,
    owner: Option<u32>,
    _lock: File,
}

impl Drop for Instance {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

impl Scratch {
    /// Makes this process's directory below `root` and removes those of dead processes.
    ///
    /// # Errors
    /// A text that names the directory and the setting.
    pub(super) fn open(root: Option<&Path>, owner: Option<u32>) -> Result<Self, String> {
        let root = root.map_or_else(default_root, Path::to_owned);
        let fault = |error: io::Error| {
            format!(
                "the sandbox cannot use {}: {error}; set TOOL_SCRATCH_DIR",
                root.display()
            )
        };
        own_dir(&root, owner).map_err(fault)?;
        sweep(&root).map_err(fault)?;
        let dir = root.join(SystemIds.uuid().to_string());
        let lock = instance(&dir, owner).map_err(fault)?;
        Ok(Self(Arc::new(Instance {
            dir,
            owner,
            _lock: lock,
        })))
    }

    /// Where the sandbox's user can open our own program: at its place, or as a copy here when a directory above it lets
    /// nobody else pass.
    pub(super) fn program(&self, path: &Path) -> io::Result<PathBuf> {
        let open = |path: &Path, mask: u32| path.metadata().map(|meta| meta.mode() & mask == mask);
        let passable = path.ancestors().skip(1).map(|dir| open(dir, 0o001));
        let all = passable.collect::<io::Result<Vec<_>>>()?;
        if self.0.owner.is_none() || (open(path, 0o005)? && all.into_iter().all(|open| open)) {
            return Ok(path.to_owned());
        }
        let copy = self.0.dir.join("confine");
        std::fs::copy(path, &copy)?;
        std::fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
        Ok(copy)
    }

    /// A fresh directory for one execution.
    pub(super) fn step(&self) -> io::Result<StepDir> {
        let step = StepDir {
            dir: self.0.dir.join(SystemIds.uuid().to_string()),
            scratch: self.clone(),
        };
        let mode = passable(self.0.owner);
        for dir in [&step.dir, &step.code()] {
            DirBuilder::new().mode(mode).create(dir)?;
        }
        for dir in [step.workspace(), step.state()] {
            DirBuilder::new().mode(0o700).create(&dir)?;
            if self.0.owner.is_some() {
                chown(&dir, self.0.owner, self.0.owner)?;
            }
        }
        Ok(step)
    }
}

/// The directories of one execution; removed when dropped.
#[derive(Debug)]
pub(super) struct StepDir {
    dir: PathBuf,
    scratch: Scratch,
}

impl Drop for StepDir {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

impl StepDir {
    /// A name no other execution has.
    pub(super) fn name(&self) -> String {
        self.dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    pub(super) fn workspace(&self) -> PathBuf {
        self.dir.join("workspace")
    }

    pub(super) fn code(&self) -> PathBuf {
        self.dir.join("code")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub(super) fn stubs(&self) -> PathBuf {
        self.scratch.0.dir.join("etc")
    }

    /// See [`StepDir::write_options`].
    pub(super) fn options(&self) -> PathBuf {
        self.dir.join("options")
    }

    /// Writes a file that only the user the program runs as can read, outside of what the program sees.
    pub(super) fn write_options(&self, bytes: &[u8]) -> io::Result<()> {
        let path = self.options();
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(bytes)?;
        self.give(&path)
    }

    /// Gives one path to the user the program runs as.
    pub(super) fn give(&self, path: &Path) -> io::Result<()> {
        match self.scratch.0.owner {
            Some(owner) => chown(path, Some(owner), Some(owner)),
            None => Ok(()),
        }
    }

    /// Writes the source text.
    pub(super) fn write_code(&self, name: &str, text: &str) -> io::Result<()> {
        let path = self.code().join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o644))
    }

    /// Gives what was put into the workspace to the user the program runs as.
    pub(super) fn hand_over(&self) -> io::Result<()> {
        match self.scratch.0.owner {
            Some(owner) => chown_all(&self.workspace(), owner),
            None => Ok(()),
        }
    }
}

fn default_root() -> PathBuf {
    std::env::temp_dir().join(format!("agent-sandbox-{}", nix::unistd::geteuid()))
}

/// Another user's program must pass through our directories, without seeing what is in them.
fn passable(owner: Option<u32>) -> u32 {
    if owner.is_some() { 0o711 } else { 0o700 }
}

/// Makes sure the directory is there, is ours and is no link someone else put there.
fn own_dir(dir: &Path, owner: Option<u32>) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(passable(owner))
        .create(dir)?;
    let meta = std::fs::symlink_metadata(dir)?;
    if !meta.is_dir() || meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it is not a directory of ours",
        ));
    }
    std::fs::set_permissions(dir, Permissions::from_mode(passable(owner)))
}

fn instance(dir: &Path, owner: Option<u32>) -> io::Result<File> {
    DirBuilder::new().mode(passable(owner)).create(dir)?;
    let lock = File::create(dir.join("lock"))?;
    lock.lock()?;
    let etc = dir.join("etc");
    DirBuilder::new().mode(0o755).create(&etc)?;
    for (name, text) in STUBS {
        let path = etc.join(name);
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o644))?;
    }
    std::fs::set_permissions(&etc, Permissions::from_mode(0o755))?;
    std::fs::set_permissions(dir, Permissions::from_mode(passable(owner)))?;
    Ok(lock)
}

/// Removes directories whose process is gone.
fn sweep(root: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(root)? {
        let dir = entry?.path();
        let lock = File::open(dir.join("lock"));
        // One without a lock file is being made this moment, or was left half made: the next start decides again.
        if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            remove(&dir);
        }
    }
    Ok(())
}

fn chown_all(dir: &Path, owner: u32) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        chown(entry.path(), Some(owner), Some(owner))?;
        if entry.file_type()?.is_dir() {
            chown_all(&entry.path(), owner)?;
        }
    }
    Ok(())
}

/// Removes a tree, also when a program took permissions away.
fn remove(dir: &Path) {
    let removed = std::fs::remove_dir_all(dir).or_else(|_| {
        unlock(dir);
        std::fs::remove_dir_all(dir)
    });
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "cannot remove a directory of the sandbox");
    }
}

fn unlock(dir: &Path) {
    if let Err(error) = std::fs::set_permissions(dir, Permissions::from_mode(0o700)) {
        tracing::debug!(dir = %dir.display(), %error, "cannot change permissions");
    }
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            unlock(&entry.path());
        }
    }
}
