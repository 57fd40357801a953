//! Fresh directories for servers.

use std::path::{Path, PathBuf};

/// A new empty directory, on the RAM disk if there is one. The caller (its guard) removes it.
pub(crate) fn fresh(what: &str) -> PathBuf {
    let ram = Path::new("/dev/shm");
    let parent = if ram.is_dir() {
        ram.to_owned()
    } else {
        std::env::temp_dir()
    };
    tempfile::Builder::new()
        .prefix(&format!("testkit-{what}-"))
        .tempdir_in(&parent)
        .unwrap_or_else(|error| panic!("cannot make a directory in {}: {error}", parent.display()))
        .keep()
}
