//! Fresh directories for servers.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

/// The name of a new directory below `TESTKIT_DIR`, else on the RAM disk if there is one. It is made by the guard that removes
/// it, so that there is no moment in which it lies unguarded.
pub(crate) fn fresh(what: &str) -> PathBuf {
    let ram = Path::new("/dev/shm");
    let parent = match std::env::var_os("TESTKIT_DIR") {
        Some(given) if !given.is_empty() => given.into(),
        _ if ram.is_dir() => ram.to_owned(),
        _ => std::env::temp_dir(),
    };
    fresh_below(&parent, what)
}

/// The same below a directory of the caller's choice.
pub(crate) fn fresh_below(parent: &Path, what: &str) -> PathBuf {
    parent.join(format!(
        "testkit-{what}-{:016x}",
        RandomState::new().hash_one(std::process::id())
    ))
}
