//! A small file system for the S3 store, so that its disk can be full and nobody else's.
//!
//! It is a RAM disk that is taken out of the tree right after it was mounted and lives on behind an open directory, so
//! nothing is left of it however the process ends. Mounting needs root.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE: &str = "size=16m";
const CHUNK_BYTES: usize = 16 * 1024;

/// The file system. Dropped = gone, once nobody uses it.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
    _root: File,
}

impl SmallDisk {
    /// `None` where mounting is not allowed.
    pub fn mount(dir: &Path) -> Option<Self> {
        let at = dir.join("disk");
        std::fs::create_dir_all(&at).ok()?;
        let run = |program: &str, args: &[&str]| {
            let status = Command::new(program).args(args).arg(&at).status();
            status.is_ok_and(|status| status.success())
        };
        if !run("mount", &["-t", "tmpfs", "-o", SIZE, "tmpfs"]) {
            return None;
        }
        let root = File::open(&at);
        assert!(run("umount", &["--lazy"]), "{} stays mounted", at.display());
        let root = root.ok()?;
        let path = PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), root.as_raw_fd()));
        Some(Self { path, _root: root })
    }

    /// Where it can be reached, also by other processes, as long as this one lives.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Not one more byte fits in afterwards.
    pub fn fill(&self) -> std::io::Result<()> {
        let mut file = File::create(self.filler())?;
        for chunk in [CHUNK_BYTES, 1] {
            while file.write_all(&vec![0; chunk]).is_ok() {}
        }
        Ok(())
    }

    pub fn free(&self) -> std::io::Result<()> {
        std::fs::remove_file(self.filler())
    }
}
