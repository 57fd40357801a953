//! The files of a manifest, put into a directory.

use super::walk::CAREFUL;
use crate::pack::PackError;
use crate::wire::File;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Puts files into an empty directory, content by content, in any order.
#[derive(Debug)]
pub struct Placer<'a> {
    root: &'a Path,
    /// What is still missing, by content.
    wanted: HashMap<&'a str, Vec<(&'a str, &'a File)>>,
    dirs: HashSet<PathBuf>,
}

impl<'a> Placer<'a> {
    /// `files` have passed [`check`](super::check).
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
