//! Confinement of a tool's process, entered by the process itself right before it becomes the tool.
//!
//! Invariants:
//! - What is entered is never left: Landlock, the filter of system calls and the limits hold for all descendants, and no
//!   program gains rights by being executed (`no_new_privs`).
//! - Landlock on files is a must. A kernel without it is an error; only what newer kernels add (truncation, devices, TCP,
//!   signals and abstract sockets) is taken where it is there. [`facts`] tells what that is.
//! - Nothing of the process that started the tool is open in it but standard input, output and error.
//! - A failure is told through [`Mark`], which the tool cannot write, and not by the exit code, which it can choose.
//!
//! Standard output and error should be pipes: a program that opens `/dev/stdout` again may do so on a pipe, while a file
//! outside [`Policy::writable`] is refused to it (and would be cut to nothing otherwise).

mod calls;
mod exec;
mod files;
mod limits;

pub use exec::{Mark, VERB, exec};
pub use files::{Facts, facts};
pub use limits::Limits;

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a tool may do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Policy {
    /// Everything below may be read, executed, written, made and removed (but no devices are made). A file is only
    /// itself: `/dev/null`. What is not there is left out.
    pub writable: Vec<PathBuf>,
    /// Everything below may be read and executed. What is in neither list can be named and, as a directory, listed, but not
    /// opened.
    pub readable: Vec<PathBuf>,
    /// Sockets of the internet. Without them only Unix sockets can be made; with them the namespace or the network's own
    /// rules decide what is reached.
    pub network: bool,
    pub limits: Limits,
    /// See [`Mark`]; outside of `writable`.
    pub mark: Option<PathBuf>,
}

/// Why a process could not be confined. Then it must not become the tool.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error("this kernel does not confine files (Landlock, Linux 5.13 or newer, enabled at boot)")]
    NoLandlock,
    #[error("Landlock refused: {0}")]
    Landlock(#[from] landlock::RulesetError),
    #[error("cannot open {path}: {reason}")]
    Path { path: PathBuf, reason: String },
    #[error("cannot compile the filter of system calls: {0}")]
    Filter(#[from] seccompiler::BackendError),
    #[error("the filter of system calls was refused: {0}")]
    Seccomp(#[from] seccompiler::Error),
    #[error("cannot limit {what}: {errno}")]
    Limit {
        what: &'static str,
        errno: nix::errno::Errno,
    },
    #[error("cannot open or close: {0}")]
    Open(#[from] std::io::Error),
    #[error("cannot give up rights: {0}")]
    Rights(nix::errno::Errno),
    #[error("a tool must not have capabilities ({0})")]
    Capabilities(String),
}

/// Confines the calling process for good. For a process of one thread, right before it executes the tool. It must have no
/// capabilities any more: with some of them Landlock lets memory of other processes be read.
///
/// # Errors
/// What this kernel cannot do, or what the policy names and is not allowed. The process may be confined in part then
/// and must end.
pub fn enter(policy: &Policy) -> Result<(), ConfineError> {
    nix::sys::prctl::set_no_new_privs().map_err(ConfineError::Rights)?;
    without_capabilities()?;
    policy.limits.apply()?;
    files::restrict(policy)?;
    calls::restrict(policy.network)
}

fn without_capabilities() -> Result<(), ConfineError> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let held = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    match held.map(str::trim) {
        Some(held) if held.bytes().all(|digit| digit == b'0') => Ok(()),
        held => Err(ConfineError::Capabilities(held.unwrap_or("unknown").to_owned())),
    }
}

/// Makes the calling process unreadable for others of the same user: no `/proc/PID/environ`, no `mem`, no tracing, no
/// core file. Undone by executing a program.
///
/// # Errors
/// The kernel's refusal.
pub fn hide() -> Result<(), ConfineError> {
    nix::sys::prctl::set_dumpable(false).map_err(ConfineError::Rights)
}
