//! What the tool may do in its pod: everything the image holds may be read, its own two directories may be written.
//!
//! Hidden are `/run` (the order, the supervisor in foreign images) and whatever is mounted there by another name. The network
//! stays closed: the pod's own way to the store is none of the tool's business.

use std::path::{Path, PathBuf};
use toolbox::confine::{Limits, Policy};
use toolbox::wire::{Order, WORKSPACE_DIR};

/// Processor time beyond the time limit, so that the clock decides and not this.
const CPU_SLACK_SECONDS: u64 = 5;
const OPEN_FILES: u64 = 1024;
/// Largest single file while the tool runs.
const FILE_BYTES: u64 = 1024 * 1024 * 1024;
/// Devices that every program expects.
const DEVICES: [&str; 6] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/shm",
];
/// Not read as a whole: what is written, what is looked into below, what is hidden.
const APART: [&str; 5] = ["/dev", "/run", "/tmp", "/var", WORKSPACE_DIR];
const HIDDEN: &str = "/run";

pub(crate) fn policy(order: &Order) -> Policy {
    let devices = DEVICES.iter().map(PathBuf::from);
    let own = [WORKSPACE_DIR, "/tmp"].map(PathBuf::from);
    let mut readable = below(Path::new("/"));
    readable.extend(below(Path::new("/var")));
    Policy {
        writable: own.into_iter().chain(devices).collect(),
        readable,
        network: false,
        limits: Limits {
            cpu_seconds: Some(order.timeout_ms / 1000 + CPU_SLACK_SECONDS),
            file_bytes: Some(FILE_BYTES),
            open_files: Some(OPEN_FILES),
            ..Limits::default()
        },
        mark: None,
    }
}

/// The entries of a directory by their real names, those apart left out.
fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let real = entries.filter_map(|entry| entry.path().canonicalize().ok());
    let apart =
        |path: &PathBuf| path.starts_with(HIDDEN) || APART.iter().any(|apart| path == Path::new(apart));
    real.filter(|path| path != Path::new("/") && !apart(path))
        .collect()
}
